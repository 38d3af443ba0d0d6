"""For all tests: compiled programs are kept for the session, in a folder of its own, and shared with subprocesses."""

import os
import pathlib
from collections.abc import Iterator

import pytest

from bt_jax.common import cli
from bt_jax.training import train
from tests import runs


@pytest.fixture(scope="session", autouse=True)
def compiled_programs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Many tests compile the same training steps, in this process, in another worker, or in a command they start."""
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent  # that of all workers
    cache = folder / "cache"
    cache.mkdir(exist_ok=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(os.environ, "BT_CACHE", str(cache))
        cli.prepare_to_compute()
        yield


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A small run, never interrupted."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    assert train.train_and_evaluate(runs.config(), folder) == 0
    return folder
