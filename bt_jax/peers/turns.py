"""What the peers have in common: a model is built and warmed up, then takes a step for each line that comes in.

Answers are lines of JSON on the standard output. The first says whether the peer is ready (`ready_s`, `version`) or
not installed (`not_installed`); each further one is a step (`seconds`, `peak_memory_bytes`). The process ends with its
input.
"""

import json
import os
import resource
import sys
import time
from collections.abc import Callable
from typing import Any

WARM_UP = 2  # steps


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
    for _ in sys.stdin:
        begin = time.perf_counter()
        step()
        seconds = time.perf_counter() - begin
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        answer(seconds=seconds, peak_memory_bytes=peak * (1 if sys.platform == "darwin" else 1024))


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
