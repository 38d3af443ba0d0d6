"""For all tests: a cache of compiled programs, and a finished run. Nothing here imports JAX before a test needs it."""

import os
import pathlib
from collections.abc import Iterator

import pytest

from tests import compile_cache, sharing

# Most of the time of a test that computes is the compiler's. Set here, since pytest imports the conftest.py of a folder
# that it is given, and JAX with it, before `pytest_configure`: this process would round unlike those that it starts.
os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"

SESSION = pytest.StashKey[pathlib.Path]()


def pytest_configure(config: pytest.Config) -> None:
    if "PYTEST_XDIST_WORKER" not in os.environ:  # workers have it from the process that starts them
        assert config.cache is not None
        config.stash[SESSION] = compile_cache.open_session(config.cache.mkdir("compiled"))


def pytest_unconfigure(config: pytest.Config) -> None:
    if SESSION in config.stash:
        compile_cache.close_session(config.stash[SESSION])


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("real_data") and not os.environ.get("BT_DATA"):
        pytest.skip("needs the folder of the real images in $BT_DATA")


@pytest.fixture(scope="module")
def optimised_programs() -> Iterator[None]:
    """Programs are compiled as for users, for tests whose numbers depend on it."""
    import jax

    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", True)


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A run of `runs.small_config`, never interrupted."""
    from bt_jax.training import train
    from tests import runs

    def make(folder: pathlib.Path) -> None:
        assert train.train_and_evaluate(runs.small_config(), folder) == 0

    return sharing.make_once(tmp_path_factory, "finished", make)


@pytest.fixture(scope="session")
def finished_efficientnet(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A run of `runs.config`, never interrupted. It takes a minute to compile."""
    from bt_jax.training import train
    from tests import runs

    def make(folder: pathlib.Path) -> None:
        assert train.train_and_evaluate(runs.config(), folder) == 0

    return sharing.make_once(tmp_path_factory, "finished_efficientnet", make)
