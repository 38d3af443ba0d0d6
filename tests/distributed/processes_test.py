"""Several processes: how they find each other; the same training as one; what they do when one stops or is lost."""

import os
import pathlib
import re
import signal
import subprocess
import time

import jax
import numpy as np
import pytest

from bt_jax.common.errors import UsageError
from bt_jax.distributed import processes, sharding
from bt_jax.workdir import checkpoint
from tests import runs, spawning


@pytest.fixture
def asked(monkeypatch) -> list[tuple]:
    """What JAX is asked for, instead of being asked; no launcher around."""
    for name in ("SLURM_NTASKS", "SLURM_PROCID", "OMPI_COMM_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    found: list[tuple] = []
    monkeypatch.setattr(jax.distributed, "initialize", lambda *arguments, **options: found.append(arguments))
    monkeypatch.setattr(processes, "_wait_for_coordinator", lambda *_: None)
    monkeypatch.setattr(jax.config, "update", lambda *_: None)
    return found


def test_a_process_alone_asks_for_nothing(asked):
    processes.join(heartbeat=100)
    processes.join(processes=1, heartbeat=100)
    assert asked == []


def test_flags_are_passed_on(asked):
    processes.join(coordinator="10.0.0.1:1234", processes=4, process=3, heartbeat=100)
    assert asked == [("10.0.0.1:1234", 4, 3)]


@pytest.mark.parametrize(
    "surroundings",
    [{"SLURM_NTASKS": "2", "SLURM_PROCID": "1"}, {"OMPI_COMM_WORLD_SIZE": "2"}],
)
def test_launchers_are_recognised(asked, monkeypatch, surroundings):
    for name, value in surroundings.items():
        monkeypatch.setenv(name, value)
    processes.join(heartbeat=100)
    assert asked == [(None, None, None)]
    processes.join(processes=1, heartbeat=100)
    assert len(asked) == 1


def test_one_task_of_slurm_is_alone(asked, monkeypatch):
    monkeypatch.setenv("SLURM_NTASKS", "1")
    monkeypatch.setenv("SLURM_PROCID", "0")
    processes.join(heartbeat=100)
    assert asked == []


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"coordinator": "a:1"}, "--processes and --process must be given too"),
        ({"processes": 2, "process": 0}, "--coordinator must be given too"),
        ({"coordinator": "a:1", "processes": 2, "process": 2}, "--process is 2: number the 2 processes from 0 to 1"),
        ({"coordinator": "a:1", "processes": 0, "process": 0}, "--processes is 0: use 1 or more"),
        ({"coordinator": "a", "processes": 2, "process": 0}, "--coordinator is 'a': use the HOST:PORT"),
    ],
)
def test_flags_that_do_not_fit_together(asked, flags, message):
    with pytest.raises(UsageError, match=re.escape(message)):
        processes.join(**flags, heartbeat=100)
    assert asked == []


def test_processes_that_do_not_find_each_other_are_one_line(asked, monkeypatch):
    def nobody(*_, **__):
        raise RuntimeError("DEADLINE_EXCEEDED: nobody\nthere")

    monkeypatch.setattr(jax.distributed, "initialize", nobody)
    with pytest.raises(UsageError, match=r"did not find each other at a:1 \(DEADLINE_EXCEEDED: nobody there\)"):
        processes.join(coordinator="a:1", processes=2, process=0, heartbeat=100)


def test_a_coordinator_that_is_not_there():
    with pytest.raises(OSError, match="refused"):
        processes._wait_for_coordinator(f"127.0.0.1:{spawning.free_port()}", 0.1)


def test_alone_everything_is_agreed_on():
    flags = np.array([True, False])
    np.testing.assert_array_equal(processes.intersect_flags(flags), flags)
    assert processes.broadcast_from_first(7) == 7
    processes.wait_for_all("nobody")
    assert processes.run_as_one(lambda: 3) == 3


def test_a_wish_counts_two_calls_later():
    agreement = processes.StopAgreement(sharding.make_mesh())
    assert [agreement(step == 2) for step in range(6)] == [False, False, False, False, True, False]


@pytest.mark.parametrize(
    ("error", "is_loss"),
    [
        (ValueError("UNKNOWN: Gloo all-reduce failed: Connection closed by peer [127.0.0.1]:26810"), True),
        (RuntimeError("UNAVAILABLE: Socket closed"), True),
        (ValueError("shapes do not match"), False),
        (KeyError("gloo"), False),
    ],
)
def test_the_loss_of_another_is_told_from_other_errors(error, is_loss):
    assert processes._is_loss(error) is is_loss


def _wait_for_step(workdir: pathlib.Path, step: int, *, of: list[subprocess.Popen[str]]) -> None:
    """Returns when these processes, not those before them, have logged the step, or one has ended."""
    begun, log, deadline = time.time(), workdir / "metrics.jsonl", time.monotonic() + 120
    while all(process.poll() is None for process in of) and time.monotonic() < deadline:
        if log.exists() and log.stat().st_mtime > begun and any(row["step"] >= step for row in runs.rows(workdir)):
            return
        time.sleep(0.01)


def _assert_alike(workdir: pathlib.Path, reference: pathlib.Path) -> None:
    """The same rows, within rounding, and the same decision on the best step."""
    found, expected = runs.rows(workdir), runs.rows(reference)
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert one.keys() == other.keys()
        if "train/loss" in one or "val/loss" in one:
            assert one == pytest.approx(other, rel=1e-3, abs=1e-4)
    assert checkpoint.read_best_metadata(workdir)[0] == checkpoint.read_best_metadata(reference)[0]
    assert runs.metrics(workdir, "validation")["n"] == 10


@pytest.mark.slow
def test_a_run_goes_from_eight_devices_to_two_processes_to_one(tmp_path):
    """Begun on eight devices with a divided state, and asked to stop. Then on two processes, one of which is killed:
    the other ends by itself. Again on two, one of which is asked to stop: both do. Finished by one on one device."""
    alone, folder = tmp_path / "alone", tmp_path / "run"
    whole = runs.run(spawning.command(alone))
    assert whole.returncode == 0, whole.stderr

    one = subprocess.Popen(
        spawning.command(folder, "--config.mesh.sharded=.", "--config.mesh.sharded_from=64"), cwd=runs.ROOT,
        env={**os.environ, "JAX_NUM_CPU_DEVICES": "8"}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    _wait_for_step(folder, 6, of=[one])
    one.send_signal(signal.SIGTERM)
    ((status, output, errors),) = spawning.end([one])
    assert status == 128 + signal.SIGTERM, errors
    assert "devices: 8; " in output

    both = spawning.start(folder, count=2)
    _wait_for_step(folder, 18, of=both)
    both[1].kill()
    begin = time.monotonic()
    (status, output, errors), _ = spawning.end(both, within=60)
    assert "resuming from step" in output and "devices: 2 of 2 hosts" in output
    assert time.monotonic() - begin < 50
    assert status in (processes.LOST_STATUS, -signal.SIGABRT), errors
    assert re.search("lost another process of this run|another task died", errors)

    both = spawning.start(folder, count=2)
    _wait_for_step(folder, 27, of=both)
    both[1].send_signal(signal.SIGTERM)
    ended = spawning.end(both)
    assert [status for status, _, _ in ended] == [128 + signal.SIGTERM] * 2, ended
    assert "interrupted: saved at step" in ended[0][1] and "saved at step" not in ended[1][1]

    finished = runs.run(spawning.command(folder))
    assert finished.returncode == 0, finished.stderr
    assert "resuming from step" in finished.stdout
    found, expected = runs.rows(folder), runs.rows(alone)
    assert len(found) == len(expected)
    for row, other in zip(found, expected, strict=True):
        assert row == pytest.approx(other, rel=1e-3, abs=1e-4)
    assert checkpoint.read_best_metadata(folder)[0] == checkpoint.read_best_metadata(alone)[0]
    assert runs.metrics(folder, "validation")["n"] == 10


class _EndedError(BaseException):
    """Stands for the end of the process."""


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (UsageError("no such\nmodel"), 2, "error: process 0: no such model\n"),
        (OSError(28, "No space left on device"), 2, "No space left on device"),
        (
            RuntimeError("UNAVAILABLE: Socket closed\nmore"),
            processes.LOST_STATUS,
            "lost another process of this run (UNAVAIL",
        ),
        (KeyboardInterrupt(), 130, "interrupted"),
        (ZeroDivisionError("a fault"), 1, "ZeroDivisionError: a fault"),
    ],
)
def test_one_of_several_ends_at_once_where_it_fails(monkeypatch, capsys, error, status, said):
    """Without JAX's own end, which waits for the others."""
    ended = []

    def end(number):
        ended.append(number)
        raise _EndedError

    def failing():
        raise error

    monkeypatch.setattr(processes, "is_distributed", lambda: True)
    monkeypatch.setattr(processes.os, "_exit", end)
    with pytest.raises(_EndedError):
        processes.run_as_one(failing)
    assert ended == [status]
    assert said in capsys.readouterr().err
