"""Runs bt_jax.main as N processes on this machine, to rehearse a run on N hosts.

    ./launch.sh multihost 2 --config=configs/cnn.py:demo --workdir=runs/two
    ./launch.sh multihost 4 --dry-run --config=configs/cnn.py:demo

The processes compute on the CPU unless $JAX_PLATFORMS is set. The first process prints as usual; lines of the others
begin with their index. When one fails, the others are stopped. Ctrl-C and SIGTERM go to all processes, which save and
exit. The same command resumes the run.
"""

import argparse
import contextlib
import math
import os
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time
import types
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

from bt_jax.launch import commands

Process: TypeAlias = "subprocess.Popen[bytes]"

MOST = 64  # processes; each takes gigabytes
_POLL_SECONDS = 0.05
# Asks for a kill when the parent dies, then executes the command. It runs in its own interpreter: between fork and
# exec, it could wait for a lock of a thread that the fork did not copy. 1 is PR_SET_PDEATHSIG of linux/prctl.h.
_BOUND = """
import ctypes, os, signal, sys
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != int(sys.argv[1]):  # it died before the call
        sys.exit(1)
os.execvp(sys.argv[2], sys.argv[2:])
"""


def main(arguments: Sequence[str]) -> int:
    """Starts the processes and returns their exit status."""
    own, flags = commands.split_flags(arguments)
    parser = commands.Options(__doc__ or "", command="multihost")
    parser.add_argument("processes", type=_parse_count, metavar="N", help="number of processes")
    parser.add_argument(
        "--grace",
        type=float,
        default=30.0,
        metavar="SECONDS",
        help="time for the others to exit after one did (default: 30)",
    )
    options = parser.parse_args(own)
    commands.require_config(flags)
    lines = [
        [sys.executable, "-m", "bt_jax.main", *flags, *addresses]
        for addresses in make_addresses(options.processes, port=find_free_port())
    ]
    if options.dry_run:
        for line in lines:
            print(f"+ {shlex.join(line)}")
        return 0
    return supervise(lines, grace=options.grace, environment={"JAX_PLATFORMS": "cpu"} | os.environ)


def _parse_count(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= MOST:
        raise argparse.ArgumentTypeError(f"{text!r}: use a number of processes from 1 to {MOST}")
    return int(text)


def make_addresses(processes: int, *, port: int) -> list[list[str]]:
    """Makes the flags of bt_jax.main that give each process the address of the first one and its own index."""
    return [
        [f"--coordinator=127.0.0.1:{port}", f"--processes={processes}", f"--process={process}"]
        for process in range(processes)
    ]


def find_free_port() -> int:
    """Returns a port that was free a moment ago."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def supervise(lines: Sequence[Sequence[str]], *, grace: float, environment: Mapping[str, str]) -> int:
    """Runs commands in parallel until all have ended; none outlives this process.

    Args:
      lines: the commands. The first writes to this process's output; lines of the others begin with their index.
      grace: seconds that the others have to exit after one failed or exited on a signal.
      environment: of all commands.

    Returns:
      0 if all succeeded, else the status of the first that failed; 128 + the number of a signal.
    """
    processes: list[Process] = []
    with _collect_signals() as received:
        try:
            for number, line in enumerate(lines):
                processes.append(_start(line, environment=environment, piped=number > 0))
            threads = [
                threading.Thread(target=_relay, args=(number, process), daemon=True)
                for number, process in enumerate(processes[1:], 1)
            ]
            for thread in threads:
                thread.start()
            status = _wait(processes, received, grace=grace)
            for thread in threads:
                thread.join(timeout=5)
            return status
        finally:
            for process in processes:
                if process.poll() is None:  # the process ID of one that ended may have been reused
                    _end(process)


def _wait(processes: Sequence[Process], received: list[int], *, grace: float) -> int:
    """Forwards signals and stops all processes when one fails, until none is left; returns the status."""
    left = dict(enumerate(processes))
    status, told, deadline = 0, False, math.inf
    while left:
        while received:
            _signal(left.values(), received.pop(0))
            told = True
        for number, process in list(left.items()):
            if process.poll() is None:
                continue
            del left[number]
            ended = _end(process)
            if not ended or status:
                continue
            status, deadline = ended, time.monotonic() + grace
            if left and not told:
                line = f"process {number} of {len(processes)} ended with status {ended}: stopping the others"
                print(line, file=sys.stderr, flush=True)
                _signal(left.values(), signal.SIGTERM)
                told = True
        if time.monotonic() > deadline:
            _signal(left.values(), signal.SIGKILL)
        time.sleep(_POLL_SECONDS)
    return status


@contextlib.contextmanager
def _collect_signals() -> Iterator[list[int]]:
    received: list[int] = []

    def receive(number: int, frame: types.FrameType | None) -> None:
        del frame
        # When the terminal closes, the run should still save.
        received.append(signal.SIGTERM if number == signal.SIGHUP else number)

    before = {number: signal.signal(number, receive) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _start(line: Sequence[str], *, environment: Mapping[str, str], piped: bool) -> Process:
    output: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT} if piped else {}
    return subprocess.Popen(
        [sys.executable, "-c", _BOUND, str(os.getpid()), *line],
        cwd=commands.get_folder(),
        env={**environment},
        stdin=subprocess.DEVNULL,
        start_new_session=True,  # Ctrl-C reaches it once, from here, and its own children can be ended with it
        **output,
    )


def _relay(number: int, process: Process) -> None:
    assert process.stdout is not None
    with process.stdout as output:
        for line in output:
            # Of a progress bar, only the last state.
            text = line.decode(errors="replace").rstrip("\r\n").rpartition("\r")[2]
            print(f"[{number}] {text}", file=sys.stderr, flush=True)


def _signal(processes: Iterable[Process], number: int) -> None:
    for process in processes:
        process.send_signal(number)


def _end(process: Process) -> int:
    """Returns the exit status of a process, after a kill of what is left of it and its children."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    code = process.wait()
    return 128 - code if code < 0 else code


if __name__ == "__main__":
    commands.run_launcher(main)
