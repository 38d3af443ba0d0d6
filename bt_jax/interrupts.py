"""Ctrl-C and SIGTERM as a wish to stop at the next good moment."""

import signal
import types
from collections.abc import Iterator
from contextlib import contextmanager


class Interrupt:
    """The signal that asked the process to stop, if any."""

    def __init__(self) -> None:
        self.number: int | None = None

    def __bool__(self) -> bool:
        return self.number is not None

    @property
    def status(self) -> int:
        """The exit status that shells use for a process ended by this signal."""
        return 128 + (self.number or 0)

    def _receive(self, number: int, frame: types.FrameType | None) -> None:
        del frame
        self.number = number
        # The second Ctrl-C ends the process at once.
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)


@contextmanager
def caught() -> Iterator[Interrupt]:
    """Collects SIGINT and SIGTERM while the block runs."""
    interrupt = Interrupt()
    before = {number: signal.signal(number, interrupt._receive) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield interrupt
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
