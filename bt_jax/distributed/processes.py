"""Runs of several processes on JAX's distributed runtime: start, barriers, agreement, and loss of a process."""

import collections
import importlib.util
import os
import pathlib
import socket
import sys
import time
import traceback
from collections.abc import Callable
from typing import NoReturn

import jax
import numpy as np
import tqdm
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from bt_jax.common.errors import UsageError
from bt_jax.distributed import sharding

# EX_TEMPFAIL of sysexits.h: the same command may succeed when started again.
LOST_STATUS = 75


def join(*, coordinator: str = "", processes: int | None = None, process: int | None = None, heartbeat: int) -> None:
    """Joins the other processes of the run, if there are any. Call it before anything uses a device.

    With an address, the process waits there for the others. Without, it takes the address from Cloud TPU, GKE, SLURM or
    Open MPI.

    Args:
      coordinator: HOST:PORT of process 0.
      processes: the number of processes; 1: this process runs alone, whatever started it.
      process: the index of this process, from 0.
      heartbeat: seconds without a sign of life after which a process counts as lost and all others stop.

    Raises:
      UsageError: the flags are inconsistent, or the processes did not find each other.
    """
    if processes == 1:
        return
    given = {"--coordinator": coordinator or None, "--processes": processes, "--process": process}
    missing = [name for name, value in given.items() if value is None]
    launcher = _detect_launcher()
    if len(missing) == len(given) and launcher is None:
        return
    if missing and len(missing) < len(given):
        raise UsageError(
            f"{' and '.join(missing)} must be given too: a run of several processes needs --coordinator=HOST:PORT "
            f"--processes=N --process=I, equal but for I, or a launcher that JAX knows"
        )
    if processes is not None and process is not None:
        if processes < 1:
            raise UsageError(f"--processes is {processes}: use 1 or more")
        if not 0 <= process < processes:
            raise UsageError(f"--process is {process}: number the {processes} processes from 0 to {processes - 1}")
        if not coordinator.rpartition(":")[2].isdigit() or not coordinator.rpartition(":")[0]:
            raise UsageError(f"--coordinator is {coordinator!r}: use the HOST:PORT of process 0")
    # `StopAgreement` handles signals; JAX's own service would keep this process from ending by one before the run.
    jax.config.update("jax_enable_preemption_service", False)
    seconds = max(60, 3 * heartbeat)
    try:
        if process is not None:
            # JAX ends a process whose wait times out, and its message does not mention the address.
            line = f"process {process} of {processes}: waiting for the others at {coordinator}, up to {seconds} s"
            print(line, file=sys.stderr, flush=True)
            if process:
                _wait_for_coordinator(coordinator, seconds)
        jax.distributed.initialize(
            coordinator or None,
            processes,
            process,
            heartbeat_timeout_seconds=heartbeat,
            initialization_timeout=seconds,
        )
    except (RuntimeError, ValueError, OSError) as error:
        where = f"at {coordinator}" if coordinator else f"though {launcher} seems to have started this one"
        raise UsageError(
            f"the processes of this run did not find each other {where} ({' '.join(str(error).split())}): "
            f"start all of them at about the same time; --processes=1 runs this one alone"
        ) from error


def _wait_for_coordinator(address: str, seconds: float) -> None:
    """Returns when process 0 listens, or raises the last error after a timeout."""
    host, _, port = address.rpartition(":")
    deadline = time.monotonic() + seconds
    while True:
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()
            return
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)


def _detect_launcher() -> str | None:
    """Returns the launcher that started this process as one of several, if the environment shows one.

    JAX gets the address, the number of processes and the index from it."""
    if int(os.environ.get("SLURM_NTASKS") or 1) > 1 and "SLURM_PROCID" in os.environ:
        return "SLURM"
    if int(os.environ.get("OMPI_COMM_WORLD_SIZE") or 1) > 1:
        return "Open MPI"
    on_tpu = importlib.util.find_spec("libtpu") and os.environ.get("JAX_PLATFORMS", "tpu").startswith("tpu")
    if on_tpu and any(True for name in ("accel[0-9]*", "vfio/[0-9]*") for _ in pathlib.Path("/dev").glob(name)):
        return "Cloud TPU"
    return None


def is_distributed() -> bool:
    """Returns whether there are other processes."""
    return jax.process_count() > 1


def get_index() -> int:
    """Returns the index of this process, from 0."""
    return jax.process_index()


def is_first() -> bool:
    """Returns whether this is the process that writes for all."""
    return jax.process_index() == 0


def say(line: str = "") -> None:
    """Prints a line, in the first process only and without breaking a progress bar."""
    if is_first():
        tqdm.tqdm.write(line)
        sys.stdout.flush()


def wait_for_all(what: str) -> None:
    """Returns when all processes have called it with the same text."""
    if is_distributed():
        multihost_utils.sync_global_devices(what)


def intersect_flags(flags: np.ndarray) -> np.ndarray:
    """Returns which of the flags, [N] bool, are set in every process. All processes must call it."""
    if not is_distributed() or not len(flags):
        return flags
    gathered = np.asarray(multihost_utils.process_allgather(flags)).reshape(-1, len(flags))
    return np.asarray(gathered.all(axis=0))


def broadcast_from_first(number: int) -> int:
    """Returns the number that the first process passes."""
    return int(multihost_utils.broadcast_one_to_all(np.int32(number))) if is_distributed() else number


class StopAgreement:
    """Agreement of all processes, at the same step, on whether any of them is to stop.

    Each call starts a reduction of the requests over the devices and reads the one that was started two calls ago. That
    one is complete by then, so no process waits.
    """

    _BEHIND = 2

    def __init__(self, mesh: Mesh):
        self._to_devices, self._devices = sharding.make_transfer(mesh), len(sharding.get_host_rows(mesh, mesh.size))
        self._any = jax.jit(lambda wishes: wishes.any(), out_shardings=sharding.get_replicated_sharding(mesh))
        self._started: collections.deque[jax.Array] = collections.deque()

    def __call__(self, wish: bool) -> bool:
        """Returns whether any process asked to stop two calls ago. All processes call it once a step."""
        self._started.append(self._any(self._to_devices(np.full(self._devices, wish))))
        return len(self._started) > self._BEHIND and bool(self._started.popleft())


def run_as_one(main: Callable[[], int | None]) -> int | None:
    """Runs a command as one of several processes, so that the others soon notice when it ends.

    A process that fails ends at once with one line: at a regular exit, JAX would wait for all others, and these for it.
    If another process is lost, this one ends with `LOST_STATUS`. If the first process is lost or a process hangs, JAX
    itself may notice and end the process by SIGABRT (status 134) with a message of its own.
    """
    if not is_distributed():
        return main()
    try:
        status = main()
    except (UsageError, OSError) as error:
        _end(f"error: process {jax.process_index()}: {' '.join(str(error).split())}", 2)
    except KeyboardInterrupt:
        _end(f"error: process {jax.process_index()}: interrupted", 130)
    except BaseException as error:
        if _is_loss(error):
            _end(
                f"error: process {jax.process_index()} lost another process of this run ({_get_first_line(error)}): "
                f"see the messages of the others; run the same command on all hosts to resume from the last checkpoint",
                LOST_STATUS,
            )
        traceback.print_exc()
        _end(f"error: process {jax.process_index()} failed", 1)
    jax.distributed.shutdown()
    return status


def _is_loss(error: BaseException) -> bool:
    """Returns whether an error comes from a collective operation or a barrier after the loss of a process."""
    words = ("gloo", "connection closed", "connection reset", "nccl", "unavailable", "heartbeat", "barrier")
    return isinstance(error, RuntimeError | ValueError) and any(word in str(error).lower() for word in words)


def _get_first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0][:200]


def _end(message: str, status: int) -> NoReturn:
    print(message, file=sys.stderr, flush=True)
    sys.stdout.flush()
    os._exit(status)
