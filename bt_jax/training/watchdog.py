"""Reports a training step that takes many times longer than usual while it runs, with the stacks of all threads."""

import collections
import pathlib
import statistics
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager

FILE = "stacks.txt"
_LEAST_SECONDS = 30.0  # never reported below this: a laptop that sleeps, a disk that wakes up


class Watchdog:
    """Watches steps from a separate thread, at a cost of microseconds per step.

    The end of a step on the host says little, because devices work asynchronously. So the usual length of a step is the
    median over the intervals between two fetches of results, each divided by the number of its steps.

    Args:
      times: a step is reported when it takes this many times the usual; 0 is off.
      folder: where the stacks of all threads are written.
      warn: called with a line.
      least: seconds below which no step is reported.
    """

    def __init__(
        self, *, times: float, folder: pathlib.Path, warn: Callable[[str], None], least: float = _LEAST_SECONDS
    ):
        self._times, self._folder, self._warn, self._least = times, folder, warn, least
        self._usual: collections.deque[float] = collections.deque(maxlen=50)  # seconds of a step, by fetch
        self._between = (0, 0.0)  # steps and seconds since the last fetch
        self._now: tuple[int, float] | None = None  # the step under way, and since when
        self._told = 0.0  # seconds after which the next line about it is due
        self._over = threading.Event()
        if times:
            threading.Thread(target=self._watch, name="watchdog", daemon=True).start()

    @contextmanager
    def watch_step(self, number: int) -> Iterator[None]:
        """Surrounds a step: waiting for its batch, dispatching it, and fetching results."""
        begin = time.monotonic()
        self._told, self._now = 0.0, (number, begin)
        try:
            yield
        finally:
            self._now = None
            steps, seconds = self._between
            self._between = steps + 1, seconds + time.monotonic() - begin

    def note_fetch(self) -> None:
        """Notes that the results of all steps so far are on the host."""
        steps, seconds = self._between
        if steps:
            self._usual.append(seconds / steps)
        self._between = 0, 0.0

    def describe_overdue(self) -> str | None:
        """Describes the current step if it takes too long; again when it has taken twice as long."""
        now = self._now
        if now is None or not self._usual or not self._times:
            return None
        number, begin = now
        seconds, usual = time.monotonic() - begin, statistics.median(self._usual)
        if seconds <= max(self._least, self._times * usual, self._told):
            return None
        self._told = 2 * seconds
        return (
            f"warning: step {number} has been under way for {seconds:.0f} s, {seconds / max(usual, 1e-9):.0f} times "
            f"the usual {usual:.3g} s: the stacks of all threads are in {self._folder / FILE}"
        )

    def close(self) -> None:
        """Stops watching."""
        self._over.set()

    def _watch(self) -> None:
        while not self._over.wait(min(1.0, self._least / 4)):
            if line := self.describe_overdue():
                with (self._folder / FILE).open("w", encoding="utf-8") as file:
                    file.write(f"{line}\n\n{_format_stacks()}")
                self._warn(line)


def _format_stacks() -> str:
    """Formats the stack of each thread, the main one first. `faulthandler` stops after a hundred threads."""
    frames = sys._current_frames()
    threads = sorted(threading.enumerate(), key=lambda thread: thread is not threading.main_thread())
    return "\n".join(
        f"{thread.name}:\n{''.join(traceback.format_stack(frames[thread.ident]))}"
        for thread in threads
        if thread.ident in frames
    )
