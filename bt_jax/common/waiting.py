"""Lines about long waits: what the command waits for, and since when."""

import contextlib
import sys
import threading
import time
from collections.abc import Callable, Iterator

_FIRST, _NEXT = 10.0, 30.0  # seconds until the first line, and between lines


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


@contextlib.contextmanager
def report(
    what: str | Callable[[], str],
    *,
    say: Callable[[str], None] = _say,
    first: float | None = None,
    every: float | None = None,
) -> Iterator[None]:
    """Says what the block waits for: after ten seconds, and then every half minute.

    Args:
      what: what the block does, as in "compiling the training step", or a function that returns it.
      say: called with each line, from another thread.
      first: seconds until the first line; None: ten.
      every: seconds between lines; None: thirty.
    """
    over, begin = threading.Event(), time.monotonic()

    def run() -> None:
        pause = _FIRST if first is None else first
        while not over.wait(pause):
            pause = _NEXT if every is None else every
            with contextlib.suppress(OSError, ValueError):  # the reader of the lines has gone
                say(f"{what() if callable(what) else what}: {time.monotonic() - begin:.0f} s so far")

    thread = threading.Thread(target=run, daemon=True, name="waiting")
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()  # no line after the block
