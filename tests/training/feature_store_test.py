"""Blocks on disk: what is damaged is not believed, and entries make room for each other."""

import os

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bt_jax.training import feature_store

BLOCK = np.random.default_rng(1).random((6, 1, 1, 5), np.float32)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.integers(0, 10**6), change=st.integers(1, 255), cut_short=st.booleans())
def test_a_damaged_file_is_not_believed(tmp_path, place, change, cut_short):
    store = feature_store.FeatureStore(tmp_path / "entry")
    store.write(0, 0, BLOCK)
    (path,) = (tmp_path / "entry").iterdir()
    content = bytearray(path.read_bytes())
    place %= len(content)
    if cut_short:
        content = content[:place]
    else:
        content[place] ^= change
    path.unlink()  # not written over: that would be seen through the map above
    path.write_bytes(content)
    assert store.read(0, 0, shape=BLOCK.shape) is None
    store.write(0, 0, BLOCK)
    block = store.read(0, 0, shape=BLOCK.shape)
    assert block is not None
    np.testing.assert_array_equal(block, BLOCK)


def test_entries_not_used_for_longest_make_room(tmp_path):
    size = None
    for number, name in enumerate(["oldest", "older", "newer"]):
        store = feature_store.FeatureStore(tmp_path / name)
        store.write(0, 0, BLOCK)
        size = sum(path.stat().st_size for path in (tmp_path / name).iterdir())
        os.utime(tmp_path / name, (number, number))
    feature_store.FeatureStore(tmp_path / "oldest")  # used again
    own = feature_store.FeatureStore(tmp_path / "own")
    own.write(0, 0, BLOCK)
    own.make_room(3 * size)
    assert len(list(tmp_path.iterdir())) == 4
    own.make_room(2 * size)
    assert {path.name for path in tmp_path.iterdir()} == {"own", "oldest", "newer"}
    own.make_room(0)
    assert {path.name for path in tmp_path.iterdir()} == {"own"}
    assert len(list((tmp_path / "own").iterdir())) == 1


def test_a_block_is_read_as_it_was_written(tmp_path):
    store = feature_store.FeatureStore(tmp_path / "entry")
    assert store.read(2, 5, shape=BLOCK.shape) is None
    written = store.write(2, 5, BLOCK)
    found = store.read(2, 5, shape=BLOCK.shape)
    np.testing.assert_array_equal(found, BLOCK)
    np.testing.assert_array_equal(written, BLOCK)
    assert isinstance(written, np.memmap)
    assert store.read(2, 4, shape=BLOCK.shape) is None and store.read(1, 5, shape=BLOCK.shape) is None


def test_what_cannot_be_written_stays_in_memory(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    store = feature_store.FeatureStore(tmp_path / "file" / "entry")
    assert store.error is None
    assert store.write(0, 0, BLOCK) is BLOCK
    assert isinstance(store.error, OSError)
