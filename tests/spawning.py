"""Runs of several processes on this machine, for tests."""

import os
import pathlib
import socket
import subprocess
import time
from collections.abc import Sequence

from tests import runs

# Compiles in a moment, has two stages, checkpoints between evaluations, trains its head on cached features.
FIELDS = {
    "model.hidden": "(16,)",
    "data.phantoms_per_class": "(25,4)",
    "preprocess.size": "32",
    "stages.head_epochs": "2.0",
    "stages.epochs": "2.0",
    "train.cached_views": "2",
    "train.batch_size": "8",
    "train.log_every": "1",
    "eval.batch_size": "6",
    "eval.every_epochs": "0.7",
    "checkpoint.every_steps": "4",
}
STEPS = 40


def command(workdir: pathlib.Path, *flags: str) -> list[str]:
    """The command line of one process."""
    fields = [f"--config.{name}={value}" for name, value in FIELDS.items()]
    return [*runs.command(workdir)[:3], "--config=configs/mlp.py:demo", f"--workdir={workdir}", *fields, *flags]


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def start(
    workdir: pathlib.Path, *flags: str, count: int, environment: dict[str, str] | None = None
) -> list[subprocess.Popen[str]]:
    """Starts the processes of a run."""
    port = free_port()
    return [
        subprocess.Popen(
            command(
                workdir,
                f"--coordinator=127.0.0.1:{port}",
                f"--processes={count}",
                f"--process={number}",
                "--heartbeat=10",
                *flags,
            ),
            cwd=runs.ROOT,
            env={**os.environ, **(environment or {})},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(count)
    ]


def end(processes: Sequence[subprocess.Popen[str]], *, within: float = 120) -> list[tuple[int, str, str]]:
    """Waits for all: exit status, output and errors of each. What has not ended by then is killed: status -9."""
    deadline, found = time.monotonic() + within, []
    for process in processes:
        try:
            output, errors = process.communicate(timeout=max(0.1, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            output, errors = process.communicate()
        found.append((process.returncode, output, errors))
    return found
