"""Processes side by side: what becomes of them when one fails, on signals, and when their parent is killed."""

import os
import pathlib
import signal
import subprocess
import sys
import time
from collections.abc import Callable

import pytest

from bt_jax.common.errors import UsageError
from bt_jax.launch import multihost
from tests import runs

ROOT = pathlib.Path(__file__).parent.parent.parent
# Writes down its number, then does as it is told; on SIGTERM it says so and leaves with 143.
PROGRAM = """
import os, pathlib, signal, subprocess, sys, time
folder, what = pathlib.Path(sys.argv[1]), sys.argv[2]
def leave(number, frame):
    if what == "stubborn":
        return
    print("saved", flush=True)
    os._exit(128 + number)
signal.signal(signal.SIGTERM, leave)
signal.signal(signal.SIGINT, leave)
if what == "parent":
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    (folder / f"{child.pid}.child").touch()
print("a bar\\rstarted", flush=True)
(folder / f"{os.getpid()}.pid").touch()
if what.isdigit():
    while len(list(folder.glob("*.pid"))) < int(sys.argv[3]):
        time.sleep(0.01)
    sys.exit(int(what))
time.sleep(60)
"""


def lines(folder: pathlib.Path, *what: str) -> list[list[str]]:
    return [[sys.executable, "-c", PROGRAM, str(folder), word, str(len(what))] for word in what]


def supervise(folder: pathlib.Path, *what: str, grace: float = 20.0) -> int:
    return multihost.supervise(lines(folder, *what), grace=grace, environment=os.environ)


def numbers(folder: pathlib.Path, kind: str = "pid") -> list[int]:
    return [int(path.stem) for path in folder.glob(f"*.{kind}")]


def alive(number: int) -> bool:
    try:
        return pathlib.Path(f"/proc/{number}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_for(condition: Callable[[], bool]) -> None:
    until = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.02)


def test_all_end_well(tmp_path: pathlib.Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert supervise(tmp_path, "0", "0", "0") == 0
    said = capfd.readouterr()
    assert said.out == "a bar\rstarted\n"  # the first, as it is
    assert sorted(said.err.splitlines()) == ["[1] started", "[2] started"]


def test_one_that_fails_takes_the_others_with_it(tmp_path: pathlib.Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert supervise(tmp_path, "waits", "3", "waits") == 3
    said = capfd.readouterr()
    assert "process 1 of 3 ended with status 3: stopping the others" in said.err
    assert "saved" in said.out and "[2] saved" in said.err
    assert len(numbers(tmp_path)) == 3 and not any(map(alive, numbers(tmp_path)))


def test_one_that_does_not_leave_is_killed(tmp_path: pathlib.Path) -> None:
    assert supervise(tmp_path, "stubborn", "3", grace=0.2) == 3
    assert not any(map(alive, numbers(tmp_path)))


def test_what_a_process_started_ends_with_it(tmp_path: pathlib.Path) -> None:
    assert supervise(tmp_path, "parent", "3") == 3
    (child,) = numbers(tmp_path, "child")
    wait_for(lambda: not alive(child))


def test_a_process_that_is_killed_counts_as_failed(tmp_path: pathlib.Path) -> None:
    killer = [sys.executable, "-c", "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"]
    found = multihost.supervise([killer, *lines(tmp_path, "waits")], grace=20.0, environment=os.environ)
    assert found == 128 + signal.SIGKILL


def supervisor(folder: pathlib.Path) -> "subprocess.Popen[bytes]":
    program = (
        "import os, sys; from tests.launch import multihost_test; import pathlib; "
        "sys.exit(multihost_test.supervise(pathlib.Path(sys.argv[1]), 'waits', 'waits'))"
    )
    started = subprocess.Popen([sys.executable, "-c", program, str(folder)], cwd=ROOT)
    wait_for(lambda: len(numbers(folder)) == 2)
    return started


@pytest.mark.parametrize(
    ("sent", "received"),
    [
        (signal.SIGTERM, signal.SIGTERM),
        pytest.param(signal.SIGINT, signal.SIGINT, marks=pytest.mark.slow),
        pytest.param(signal.SIGHUP, signal.SIGTERM, marks=pytest.mark.slow),
    ],
)
def test_signals_are_passed_on(tmp_path: pathlib.Path, sent: signal.Signals, received: signal.Signals) -> None:
    started = supervisor(tmp_path)
    started.send_signal(sent)
    assert started.wait(20) == 128 + received
    assert not any(map(alive, numbers(tmp_path)))


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process that its parent died")
def test_nothing_is_left_when_the_parent_is_killed(tmp_path: pathlib.Path) -> None:
    started = supervisor(tmp_path)
    started.kill()
    started.wait(20)
    wait_for(lambda: not any(map(alive, numbers(tmp_path))))


def test_each_process_knows_its_place() -> None:
    first, second = multihost.make_addresses(2, port=1234)
    assert first == ["--coordinator=127.0.0.1:1234", "--processes=2", "--process=0"]
    assert second == ["--coordinator=127.0.0.1:1234", "--processes=2", "--process=1"]


def test_a_dry_run_prints_the_processes(capsys: pytest.CaptureFixture[str]) -> None:
    assert multihost.main(["3", "--dry-run", "--config=configs/cnn.py:demo"]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == 3
    assert all("-m bt_jax.main --config=configs/cnn.py:demo --coordinator=127.0.0.1:" in line for line in printed)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["2"], "--config is missing"),
        (["--config=c"], "N"),
        (["0", "--config=c"], "from 1 to 64"),
        (["two", "--config=c"], "from 1 to 64"),
        (["2", "--config=c", "--wokdir=d"], "unrecognized arguments: --wokdir=d"),
    ],
)
def test_a_mistake_is_one_clear_line(arguments: list[str], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        multihost.main(arguments)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_the_command_line_ends_with_one_line() -> None:
    command = [sys.executable, "-m", "bt_jax.launch.multihost", "2"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("error: --config is missing") and done.stderr.count("\n") == 1


@pytest.mark.slow
def test_two_processes_train(tmp_path: pathlib.Path) -> None:
    """Once interrupted, once to the end; one report, from one of them."""
    command = runs.small_command(tmp_path / "run")
    command[2:3] = ["bt_jax.launch.multihost", "2"]
    started = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    rows = tmp_path / "run" / "metrics.jsonl"
    until = time.monotonic() + 240
    while not (rows.exists() and "val/loss" in rows.read_text()):
        assert started.poll() is None and time.monotonic() < until, started.communicate()[0].decode()
        time.sleep(0.2)
    started.terminate()
    output, _ = started.communicate(timeout=120)
    assert started.returncode == 128 + signal.SIGTERM, output.decode()
    done = runs.run(command)
    assert done.returncode == 0, done.stderr
    assert "resuming from step" in done.stdout
    assert (tmp_path / "run" / "report" / "model_card.md").exists()
