"""The protocol of the peers: a model is built and warmed up, and measured once for each line on the standard input.

Answers are lines of JSON on the standard output. The first one says that the peer is ready (`ready_s`, `version`) or
not installed (`not_installed`). Each further one is a turn (`seconds` per step, `peak_memory_bytes`). The process ends
at the end of its input.
"""

import json
import os
import resource
import sys
import time
from collections.abc import Callable
from typing import Any

WARM_UP = 2  # steps

# Steps of a turn. The first one does not count: its caches hold data of other programs, unlike in training.
RUN_IN, STEPS = 1, 3


def make_turn(step: Callable[[], Any]) -> Callable[[], float]:
    """Makes a function that measures one turn and returns the seconds per step."""

    def turn() -> float:
        for _ in range(RUN_IN):
            step()
        begin = time.perf_counter()
        for _ in range(STEPS):
            step()
        return (time.perf_counter() - begin) / STEPS

    return turn


def serve(build: Callable[..., Callable[[], Any]], *, packages: tuple[str, ...]) -> None:
    """Measures one turn for each line of the standard input.

    The command line is MODE (`train` or `infer`), BATCH, SIZE in pixels, MODEL, and options of the peer.

    Args:
      build: (mode, batch, size, model, *options) -> function that runs one step and waits for it. It imports its
        library itself.
      packages: imported by `build`; their versions are reported.
    """
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # output of libraries must not mix with the answers

    def answer(**values: Any) -> None:
        answers.write(json.dumps(values) + "\n")

    mode, batch, size, model, *options = sys.argv[1:]
    begin = time.monotonic()
    try:
        step = build(mode, int(batch), int(size), model, *options)
        for _ in range(WARM_UP):
            step()
    except ImportError as error:
        answer(not_installed=str(error))
        return
    version = ", ".join(f"{name} {sys.modules[name].__version__}" for name in packages)
    answer(ready_s=time.monotonic() - begin, version=version)
    turn = make_turn(step)
    for _ in sys.stdin:
        seconds = turn()
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        answer(seconds=seconds, peak_memory_bytes=peak * (1 if sys.platform == "darwin" else 1024))


def count_cores() -> int:
    """Returns the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
