"""The command, as a person starts and stops it."""

import http.client
import json
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager

import pytest

from tests import hostile_inputs, medical_files, multipart, runs


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "bt_jax.serve", *map(str, arguments)]


@contextmanager
def started(*arguments: object) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """The process, and the port that it said; killed at the end if it still runs."""
    with subprocess.Popen(
        command(*arguments, "--port=0"), cwd=runs.ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None and process.stderr is not None
            line = process.stdout.readline()
            found = re.search(r"at http://127\.0\.0\.1:(\d+)/ ", line)
            assert found, line + process.stderr.read()
            yield process, int(found[1])
        finally:
            process.kill()


def test_from_start_to_sigterm(workdir):
    with (
        started(f"--model={workdir}") as (process, port),
        closing(http.client.HTTPConnection("127.0.0.1", port)) as one,
    ):
        one.request("GET", "/healthz")
        assert json.loads(one.getresponse().read())["status"] == "ok"
        files = [(medical_files.SECRET, medical_files.dicom(hostile_inputs.scan())), ("b.png", b"broken")]
        one.request("POST", "/api/predict", multipart.encoded(files), {"Content-Type": multipart.CONTENT_TYPE})
        answer = json.loads(one.getresponse().read())
        assert "prediction" in answer["records"][0] and "error" in answer["records"][1]
        one.request("GET", "/", headers={"Host": f"evil.example:{port}"})
        foreign = one.getresponse()
        assert foreign.status == 421 and json.loads(foreign.read())["code"] == "other_host"
        process.send_signal(signal.SIGTERM)
        out, errors = process.communicate(timeout=60)
        assert (process.returncode, out, errors) == (0, "stopped\n", "")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        pytest.param(["--model=nowhere", "--port=0"], "'nowhere' holds no checkpoint", marks=pytest.mark.slow),
        (["--model=M", "--port=-1"], "--port"),
        (["--model=M", "--host=no such host"], "--host='no such host' is not an address"),
        (["--model=M", "extra"], "unexpected argument"),
    ],
)
def test_what_is_wrong_is_one_line(workdir, arguments, said):
    ended = runs.run(command(*(argument.replace("=M", f"={workdir}") for argument in arguments)))
    assert ended.returncode == 2 and ended.stdout == ""
    assert said in ended.stderr and len(ended.stderr.strip().splitlines()) == 1, ended.stderr


def test_a_port_that_is_taken(workdir):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        ended = runs.run(command(f"--model={workdir}", f"--port={port}"))
    assert ended.returncode == 2
    assert re.fullmatch(rf"error: cannot bind to 127\.0\.0\.1 port {port} .*\n", ended.stderr)


def test_help_needs_no_jax():
    program = (
        "import runpy, sys; sys.argv = ['serve', '--help']\n"
        "try: runpy.run_module('bt_jax.serve', run_name='__main__', alter_sys=True)\n"
        "finally: assert not {'jax', 'flask'} & set(sys.modules)"
    )
    ended = runs.run([sys.executable, "-c", program])
    assert ended.returncode == 0, ended.stderr
    assert "curl -F file=@scan.png" in ended.stdout and "--max_megabytes" in ended.stdout
