"""Says which image is being loaded where that takes long: in any thread, also in the processes that load images."""

import contextlib
import os
import sys
import threading
import time
from collections.abc import Iterator

SECONDS = 60.0  # an augmented image takes milliseconds

# By thread: what it loads, and since when. One for each process.
_loading: dict[int, tuple[str, float]] = {}
_watching = threading.Lock()
_told: set[tuple[str, float]] = set()


@contextlib.contextmanager
def track_loading(name: str) -> Iterator[None]:
    """A record of this name is being loaded in this thread."""
    if not _watching.locked() and _watching.acquire(blocking=False):
        threading.Thread(target=_watch, name="slow records", daemon=True).start()
    thread = threading.get_ident()
    _loading[thread] = name, time.monotonic()
    try:
        yield
    finally:
        del _loading[thread]


def list_overdue() -> list[str]:
    """A line for each record that has been loading for more than `SECONDS`, once."""
    lines = []
    for what in list(_loading.values()):
        name, since = what
        if time.monotonic() - since > SECONDS and what not in _told:
            _told.add(what)
            lines.append(
                f"warning: {name} has been loading for {time.monotonic() - since:.0f} s in process {os.getpid()}; "
                f"training waits for it"
            )
    return lines


def _watch() -> None:
    while True:
        time.sleep(min(1.0, SECONDS / 4))
        for line in list_overdue():
            print(line, file=sys.stderr, flush=True)
