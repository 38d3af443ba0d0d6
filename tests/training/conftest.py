import functools
from collections.abc import Iterator

import pytest

from bt_jax.data.phantom_source import PhantomReader


@pytest.fixture(scope="session", autouse=True)
def phantoms_are_drawn_once() -> Iterator[None]:
    """Some thirty runs in this process train on the same phantoms, and a third of their time went into drawing them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PhantomReader, "__call__", functools.lru_cache(maxsize=1000)(PhantomReader.__call__))
        yield
