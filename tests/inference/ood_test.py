import numpy as np
import pytest

from bt_jax.common.errors import UsageError
from bt_jax.inference import ood
from bt_jax.inference.ood import OodModel


def made(generator: np.random.Generator, count: int) -> np.ndarray:
    """Features of a kind: three clusters in 16 dimensions, far from 0."""
    centres = np.random.default_rng(7).normal(0, 3, (3, 16)) + 5
    return (centres[generator.integers(3, size=count)] + generator.normal(0, 0.5, (count, 16))).astype(np.float32)


def fitted(count: int = 300) -> OodModel:
    generator = np.random.default_rng(0)
    found = ood.fit(made(generator, count), made(generator, 200), fitted_on="the validation images", step=5)
    assert found is not None
    return found


def test_by_hand():
    """One direction with variance 4, all others with 1 / 4, and 2 as the largest normal distance."""
    one = OodModel(
        centre=np.array([1, 1, 1], np.float32),
        components=np.array([(0, 1, 0)], np.float32),
        variances=np.array([4], np.float32),
        remainder=0.25,
        threshold=2.0,
        fitted_on="nothing",
        step=0,
    )
    features = np.array([(1, 1, 1), (1, 5, 1), (2, 1, 1), (1, 3, 0), (np.nan, 0, 0), (np.inf, 0, 0)])
    np.testing.assert_allclose(one.score(features), [0, 1, 1, np.sqrt(5) / 2, np.inf, np.inf])


def test_with_all_components_it_is_the_mahalanobis_distance():
    """Against the inverse of the covariance matrix, which is shrunk towards the unit matrix."""
    generator = np.random.default_rng(4)
    training = generator.normal(0, 1, (500, 8)) @ generator.normal(0, 1, (8, 8))
    found = ood.fit(training, training[:100], fitted_on="", step=0)
    assert found is not None and len(found.components) == 8
    covariance = np.cov(training.T)
    covariance += np.eye(8) * ood.SHRINKAGE * np.trace(covariance) / 8
    away = generator.normal(0, 3, (20, 8)) - training.mean(0)
    expected = np.sqrt(np.einsum("nd,de,ne->n", away, np.linalg.inv(covariance), away))
    scores = found.score((away + training.mean(0)).astype(np.float32))
    np.testing.assert_allclose(scores * found.threshold, expected, rtol=1e-4)
    assert np.percentile(found.score(training[:100]), 99) == pytest.approx(1)


def test_what_never_varied_counts_most():
    """As far away in a direction that no training image took as in the one they took most."""
    training, validation = (
        np.pad(made(np.random.default_rng(seed), 300), ((0, 0), (0, 48))) for seed in (0, 1)
    )  # [300, 64], of which the last 48 are always 0
    found = ood.fit(training, validation, fitted_on="", step=0)
    assert found is not None
    never = np.eye(64, dtype=np.float32)[40]
    often, seldom = (found.score((found.centre + 3 * where)[None])[0] for where in (found.components[0], never))
    assert seldom > 3 * often


def test_a_hundredth_of_the_validation_images_is_doubted_and_nearly_all_of_another_kind():
    found, generator = fitted(), np.random.default_rng(0)
    made(generator, 300)
    of_validation = found.score(made(generator, 200))
    assert (of_validation > 1).sum() == 2
    unseen = found.score(made(np.random.default_rng(1), 1000))
    assert (unseen > 1).mean() < 0.05
    others = np.random.default_rng(2).normal(0, 6, (500, 16)) + 5
    assert (found.score(others) > 1).mean() > 0.95


def test_it_comes_back_from_its_file(tmp_path):
    found, features = fitted(), made(np.random.default_rng(3), 20)
    ood.write(tmp_path, found)
    again = ood.read(tmp_path, step=5)
    assert again is not None and again.fitted_on == "the validation images"
    np.testing.assert_array_equal(again.score(features), found.score(features))
    assert ood.read(tmp_path, step=6) is None
    before = (tmp_path / ood.FILE).read_bytes()
    ood.write(tmp_path, again)
    assert (tmp_path / ood.FILE).read_bytes() == before


def test_old_workdirs_make_no_claim(tmp_path):
    assert ood.read(tmp_path, step=5) is None


@pytest.mark.parametrize("content", [b"", b"nonsense", b"PK\x03\x04 cut short"])
def test_a_damaged_file_is_named(tmp_path, content):
    (tmp_path / ood.FILE).write_bytes(content)
    with pytest.raises(UsageError, match=r"doubt\.npz is damaged .* remove it"):
        ood.read(tmp_path, step=5)


def test_no_pickle_is_read(tmp_path):
    arrays = fitted().to_arrays() | {"components": np.array([{"a": 1}], object)}
    np.savez(tmp_path / ood.FILE, **arrays)
    with pytest.raises(UsageError, match="is damaged"):
        ood.read(tmp_path, step=5)


@pytest.mark.parametrize(
    "wrong", [{"components": np.zeros((3, 4))}, {"threshold": np.array(0.0)}, {"remainder": np.array(-1)}]
)
def test_arrays_that_do_not_fit(tmp_path, wrong):
    np.savez(tmp_path / ood.FILE, **(fitted().to_arrays() | wrong))
    with pytest.raises(UsageError, match="is damaged"):
        ood.read(tmp_path, step=5)


def test_where_nothing_can_be_told_there_is_none():
    features = made(np.random.default_rng(0), 20)
    assert ood.fit(features, features[:0], fitted_on="", step=0) is None
    assert ood.fit(features * 0, features, fitted_on="", step=0) is None
    assert ood.fit(features * np.nan, features, fitted_on="", step=0) is None


def test_rows_to_keep_are_spread():
    assert ood.choose_rows(5).tolist() == [0, 1, 2, 3, 4]
    rows = ood.choose_rows(2296)
    assert len(rows) == ood.MOST_IMAGES == len(set(rows.tolist()))
    assert rows[0] == 0 and rows[-1] == 2295
