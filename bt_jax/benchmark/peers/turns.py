"""What the peers have in common: a model is built and warmed up, then takes a turn for each line that comes in.

Answers are lines of JSON on the standard output. The first says whether the peer is ready (`ready_s`, `version`) or
not installed (`not_installed`); each further one is a turn (`seconds` of a step, `peak_memory_bytes`). The process ends
with its input.
"""

import json
import os
import resource
import sys
import time
from collections.abc import Callable
from typing import Any

WARM_UP = 2  # steps

# Steps of a turn. The first one finds the caches full of what others did in the meantime, which in training it never
# does, and does not count.
RUN_IN, STEPS = 1, 3


def make_turn(step: Callable[[], Any]) -> Callable[[], float]:
    """A function that takes a turn and returns the seconds of a step."""

    def turn() -> float:
        for _ in range(RUN_IN):
            step()
        begin = time.perf_counter()
        for _ in range(STEPS):
            step()
        return (time.perf_counter() - begin) / STEPS

    return turn


def serve(build: Callable[..., Callable[[], Any]], *, packages: tuple[str, ...]) -> None:
    """Answers the lines of the standard input.

    The command line is MODE (`train` or `infer`), BATCH, SIZE in pixels, MODEL, and options of the peer.

    Args:
      build: (mode, batch, size, model, *options) -> function that takes a step and returns when it is done; imports its
        library itself.
      packages: imported by `build`, whose versions are told.
    """
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what libraries print must not mix with the answers

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
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
