"""A process that has imported what the commands need and forks a process for each command that a test runs.

The imports take some four seconds of a core, and the tests run some two hundred commands. `run` is for tests; as a
program, this is the server. It starts no thread and no JAX backend, since neither survives a fork.
"""

import atexit
import contextlib
import functools
import gc
import json
import os
import pathlib
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from typing import NoReturn

ROOT = pathlib.Path(__file__).parent.parent
# Beginnings of environment variables that are read when a module is imported.
AT_IMPORT = ("JAX_", "XLA_", "PYTHON", "TF_", "OMP_", "LD_")


def fits(environment: dict[str, str]) -> bool:
    """Returns whether a command with this environment can run in a fork: whether it would import the same."""
    return _select(environment) == _server()[1]


def run(module: str, arguments: list[str], environment: dict[str, str], *, timeout: float) -> tuple[int, str, str]:
    """Runs `python -m module arguments` in a fork of the server.

    Returns:
      The exit status, negative for a signal; the output; the errors.

    Raises:
      subprocess.TimeoutExpired: after `timeout` seconds; the command is killed.
    """
    with (
        tempfile.TemporaryFile("w+", encoding="utf-8") as request,
        tempfile.TemporaryFile("w+", encoding="utf-8") as output,
        tempfile.TemporaryFile("w+", encoding="utf-8") as errors,
    ):
        json.dump({"module": module, "arguments": arguments, "environment": environment}, request)
        request.flush()
        here, there = socket.socketpair()
        with here, here.makefile("r") as answers:
            with there:
                files = (there, request, output, errors)
                socket.send_fds(_server()[0], [b"run"], [file.fileno() for file in files])
            process = int(answers.readline())
            here.settimeout(timeout)
            try:
                status = int(answers.readline())
            except TimeoutError as error:
                os.kill(process, signal.SIGKILL)
                raise subprocess.TimeoutExpired([module, *arguments], timeout) from error
        output.seek(0)
        errors.seek(0)
        return status, output.read(), errors.read()


@functools.cache
def _server() -> tuple[socket.socket, dict[str, str]]:
    """Starts the server of this process; returns the connection, and what its imports may have read."""
    here, there = socket.socketpair()
    with there:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.command_server", str(there.fileno())], cwd=ROOT, pass_fds=[there.fileno()]
        )
    started = _select(dict(os.environ))
    assert here.recv(5) == b"ready"

    def stop() -> None:
        here.close()
        process.wait()

    atexit.register(stop)
    return here, started


def _select(environment: dict[str, str]) -> dict[str, str]:
    return {name: value for name, value in environment.items() if name.startswith(AT_IMPORT)}


def _serve(connection: socket.socket) -> None:
    """Forks for each request until the other end is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the monitors
    _import()
    connection.sendall(b"ready")
    while True:
        message, descriptors, _, _ = socket.recv_fds(connection, 3, 4)
        if not message:
            return
        if not os.fork():
            connection.close()
            _run_and_watch(*descriptors)
        for descriptor in descriptors:
            os.close(descriptor)


def _import() -> None:
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "2"  # as cli.run sets it; read when JAX is imported
    import bt_jax.training.train  # noqa: F401

    assert threading.active_count() == 1, threading.enumerate()
    gc.collect()
    gc.freeze()  # so that collections in the forks copy no memory


def _run_and_watch(answer: int, request: int, output: int, errors: int) -> NoReturn:
    """Runs a command in a fork of this process, which tells its number and, at its end, its status."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    if process := os.fork():
        os.write(answer, f"{process}\n".encode())
        _, status = os.waitpid(process, 0)
        with contextlib.suppress(BrokenPipeError):  # the test waited long enough
            os.write(answer, f"{os.waitstatus_to_exitcode(status)}\n".encode())
        os._exit(0)
    os.close(answer)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with os.fdopen(request) as file:
        file.seek(0)
        asked = json.load(file)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for number, descriptor in enumerate((nothing, output, errors)):
        os.dup2(descriptor, number)
        os.close(descriptor)
    os.environ.clear()
    os.environ.update(asked["environment"])
    from bt_jax.common import cli

    cli.BEGAN = time.monotonic()
    sys.argv[1:] = asked["arguments"]
    _leave(_run_module(asked["module"]))


def _run_module(name: str) -> int:
    """Returns the exit status of `python -m name`."""
    try:
        runpy.run_module(name, run_name="__main__", alter_sys=True)
    except SystemExit as ended:
        if isinstance(ended.code, str):
            print(ended.code, file=sys.stderr)
            return 1
        return ended.code or 0
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def _leave(status: int) -> NoReturn:
    """Ends as an interpreter does, but for freeing the memory of all that was imported, which takes a second."""
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


if __name__ == "__main__":
    _serve(socket.socket(fileno=int(sys.argv[1])))
