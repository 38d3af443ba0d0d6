"""What is expensive to make and only read: made once a session, by whichever worker of pytest-xdist needs it first."""

import fcntl
import os
import pathlib
import shutil
from collections.abc import Callable

import pytest


def make_once(factory: pytest.TempPathFactory, name: str, make: Callable[[pathlib.Path], object]) -> pathlib.Path:
    """Returns the path of what `make` made; the other workers wait for it.

    Args:
      factory: the fixture `tmp_path_factory`.
      name: of the folder, unique in the session.
      make: called with the path of the folder, or file, that it makes.
    """
    base = factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        base = base.parent  # that of all workers
    folder = base / f"shared-{name}"
    folder.mkdir(exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "made").exists():
            shutil.rmtree(folder / "it", ignore_errors=True)  # of one that failed
            make(folder / "it")
            (folder / "made").touch()
    return folder / "it"
