import dataclasses

import numpy as np
import pytest

from bt_jax import doubt
from bt_jax.doubt import Doubt
from bt_jax.errors import UsageError


def made(generator: np.random.Generator, count: int) -> np.ndarray:
    """Features of a kind: three clusters in 16 dimensions, far from 0."""
    centres = np.random.default_rng(7).normal(0, 3, (3, 16)) + 5
    return (centres[generator.integers(3, size=count)] + generator.normal(0, 0.5, (count, 16))).astype(np.float32)


def fitted(count: int = 300) -> Doubt:
    generator = np.random.default_rng(0)
    found = doubt.fit(made(generator, count), made(generator, 200), fitted_on="the validation images", step=5)
    assert found is not None
    return found


def test_by_hand():
    """Two directions on a circle around a centre: the distance to the nearer of them, over the threshold."""
    one = Doubt(
        centre=np.array([1, 1], np.float32),
        directions=np.array([(1, 0), (0, 1)], np.float32),
        neighbour=1,
        threshold=0.5,
        fitted_on="nothing",
        step=0,
    )
    features = np.array([(3, 1), (1, 9), (2, 2), (0, 1), (np.nan, 0), (1, 1)])
    half = np.sqrt(2 - np.sqrt(2)) / 0.5
    np.testing.assert_allclose(one.score(features), [0, 0, half, np.sqrt(2) / 0.5, np.inf, np.sqrt(2) / 0.5], atol=1e-6)


def test_the_second_nearest_counts():
    one = dataclasses.replace(fitted(), directions=np.eye(16, dtype=np.float32)[:3], neighbour=2, threshold=1.0)
    at_first = one.centre + np.eye(16, dtype=np.float32)[:1]
    np.testing.assert_allclose(one.score(at_first), [np.sqrt(2)], rtol=1e-6)


def test_a_hundredth_of_the_validation_images_is_doubted_and_nearly_all_of_another_kind():
    found, generator = fitted(), np.random.default_rng(0)
    made(generator, 300)
    of_validation = found.score(made(generator, 200))
    assert (of_validation > 1).sum() == 2
    unseen = found.score(made(np.random.default_rng(1), 1000))
    assert (unseen > 1).mean() < 0.05
    others = np.random.default_rng(2).normal(0, 3, (500, 16)) + 5
    assert (found.score(others) > 1).mean() > 0.95


def test_it_comes_back_from_its_file(tmp_path):
    found, features = fitted(), made(np.random.default_rng(3), 20)
    doubt.write(tmp_path, found)
    again = doubt.read(tmp_path, step=5)
    assert again is not None and again.fitted_on == "the validation images"
    np.testing.assert_array_equal(again.score(features), found.score(features))
    assert doubt.read(tmp_path, step=6) is None
    before = (tmp_path / doubt.FILE).read_bytes()
    doubt.write(tmp_path, again)
    assert (tmp_path / doubt.FILE).read_bytes() == before


def test_old_workdirs_make_no_claim(tmp_path):
    assert doubt.read(tmp_path, step=5) is None


@pytest.mark.parametrize("content", [b"", b"nonsense", b"PK\x03\x04 cut short"])
def test_a_damaged_file_is_named(tmp_path, content):
    (tmp_path / doubt.FILE).write_bytes(content)
    with pytest.raises(UsageError, match=r"doubt\.npz is damaged .* remove it"):
        doubt.read(tmp_path, step=5)


def test_no_pickle_is_read(tmp_path):
    arrays = fitted().arrays() | {"directions": np.array([{"a": 1}], object)}
    np.savez(tmp_path / doubt.FILE, **arrays)
    with pytest.raises(UsageError, match="is damaged"):
        doubt.read(tmp_path, step=5)


@pytest.mark.parametrize("name", ["directions", "threshold", "neighbour"])
def test_arrays_that_do_not_fit(tmp_path, name):
    wrong = {"directions": np.zeros((3, 4), np.float16), "threshold": np.array(0.0), "neighbour": np.array(0)}
    np.savez(tmp_path / doubt.FILE, **(fitted().arrays() | {name: wrong[name]}))
    with pytest.raises(UsageError, match="is damaged"):
        doubt.read(tmp_path, step=5)


def test_without_validation_images_there_is_none():
    features = made(np.random.default_rng(0), 20)
    assert doubt.fit(features, features[:0], fitted_on="", step=0) is None


def test_rows_to_keep_are_spread():
    assert doubt.rows_to_keep(5).tolist() == [0, 1, 2, 3, 4]
    rows = doubt.rows_to_keep(2296)
    assert len(rows) == doubt.MOST_IMAGES == len(set(rows.tolist()))
    assert rows[0] == 0 and rows[-1] == 2295
