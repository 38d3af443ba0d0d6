"""The protocol of the peers: a model is built and warmed up, and measured once for each line on the standard input.

Answers are lines of JSON on the standard output. The first one says that the peer is ready (`ready_s`, `version`) or
not installed (`not_installed`). Each further one is a turn (`seconds` per step, `peak_memory_bytes`). The process ends
at the end of its input.
"""

import dataclasses
import json
import os
import pathlib
import resource
import sys
import time
from collections.abc import Callable
from typing import Any

WARM_UP = 2  # steps

# Steps of a turn. The first one does not count: its caches hold data of other programs, unlike in training.
RUN_IN = 1
STEPS_ON_CPU, STEPS_ON_ACCELERATOR = 3, 30


@dataclasses.dataclass(frozen=True)
class Step:
    """What is measured.

    Attributes:
      run: runs one step, or queues it on an accelerator.
      wait: waits until all steps are done; None where `run` waits.
      count: steps of a turn. On an accelerator there are many, since the host waits for it only once.
      read_peak_memory: returns the peak memory in bytes; None: that of the process.
    """

    run: Callable[[], Any]
    wait: Callable[[], Any] | None = None
    count: int = STEPS_ON_CPU
    read_peak_memory: Callable[[], int] | None = None


def make_turn(step: Step) -> Callable[[], float]:
    """Makes a function that measures one turn and returns the seconds per step."""

    def run(count: int) -> None:
        for _ in range(count):
            step.run()
        if step.wait is not None:
            step.wait()

    def turn() -> float:
        run(RUN_IN)
        begin = time.perf_counter()
        run(step.count)
        return (time.perf_counter() - begin) / step.count

    return turn


def serve(build: Callable[..., Step], *, packages: tuple[str, ...]) -> None:
    """Measures one turn for each line of the standard input.

    The command line is MODE (`train` or `infer`), BATCH, SIZE in pixels, MODEL, and options of the peer.

    Args:
      build: (mode, batch, size, model, *options) -> step. It imports its library itself.
      packages: imported by `build`; their versions are reported.
    """
    answers = os.fdopen(os.dup(1), "w", buffering=1, encoding="utf-8")
    os.dup2(2, 1)  # output of libraries must not mix with the answers

    def answer(**values: Any) -> None:
        answers.write(json.dumps(values) + "\n")

    mode, batch, size, model, *options = sys.argv[1:]
    begin = time.monotonic()
    try:
        step = build(mode, int(batch), int(size), model, *options)
        for _ in range(WARM_UP):
            step.run()
        if step.wait is not None:
            step.wait()
    except ImportError as error:
        answer(not_installed=str(error))
        return
    version = ", ".join(f"{name} {sys.modules[name].__version__}" for name in packages)
    answer(ready_s=time.monotonic() - begin, version=version)
    turn = make_turn(step)
    for _ in sys.stdin:
        seconds = turn()
        answer(seconds=seconds, peak_memory_bytes=(step.read_peak_memory or read_peak_memory)())


def read_peak_memory() -> int:
    """Returns the peak resident memory of this process so far, in bytes."""
    # On Linux, `ru_maxrss` of a new process begins with the peak of the one that started it.
    status = pathlib.Path("/proc/self/status")
    for line in status.read_text(encoding="utf-8").splitlines() if status.exists() else ():
        if line.startswith("VmHWM:"):
            return 1024 * int(line.split()[1])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak * (1 if sys.platform == "darwin" else 1024)


def count_cores() -> int:
    """Returns the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
