"""Ctrl-C and SIGTERM as a request to stop at the next safe point."""

import signal
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Interrupt:
    """The signal that asked the process to stop, if any.

    Args:
      agree: in a run of several processes, returns whether any process received a signal. All processes call it at the
        same steps, and the signal takes effect at the step where they agree.
    """

    def __init__(self, agree: Callable[[bool], bool] | None = None) -> None:
        self.number: int | None = None
        self._agree, self._agreed = agree, False

    def __bool__(self) -> bool:
        return self._agreed if self._agree else self.number is not None

    def synchronise(self) -> None:
        """Exchanges the request with the other processes, if there are any. Call it once a step."""
        if self._agree and not self._agreed:
            self._agreed = self._agree(self.number is not None)

    @property
    def status(self) -> int:
        """The exit status that shells report for this signal; that of SIGTERM if another process received it."""
        return 128 + (self.number or signal.SIGTERM)

    def _receive(self, number: int, frame: types.FrameType | None) -> None:
        del frame
        self.number = number
        # The second Ctrl-C ends the process at once.
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)


@contextmanager
def catch_signals(agree: Callable[[bool], bool] | None = None) -> Iterator[Interrupt]:
    """Catches SIGINT and SIGTERM while the block runs; `agree` as in `Interrupt`."""
    interrupt = Interrupt(agree)
    before = {number: signal.signal(number, interrupt._receive) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield interrupt
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
