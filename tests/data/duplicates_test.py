import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from bt_jax.data import duplicates, seen_images

edges = st.integers(1, 30).flatmap(
    lambda n: st.tuples(st.just(n), st.lists(st.tuples(st.integers(0, n - 1), st.integers(0, n - 1)), max_size=40))
)


def random_thumbnails(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, 2, 16, 16), dtype=np.uint8)


def test_products_of_standardised_rows_are_correlations():
    a = random_thumbnails(5)[:, 0]
    rows = duplicates.standardised(a)
    assert rows.dtype == np.float32
    np.testing.assert_allclose(rows @ rows.T, np.corrcoef(a.reshape(5, -1)), atol=1e-5)


def test_constant_images_are_nobodys_twins():
    thumbnails = np.full((3, 2, 16, 16), 7, np.uint8)
    assert np.isfinite(duplicates.standardised(thumbnails[:, 0])).all()
    assert len(duplicates.near_pairs(thumbnails, thumbnails)) == 0


def test_near_pairs_counts_either_kind_of_thumbnail():
    a, b = random_thumbnails(4), random_thumbnails(5, seed=1)
    b[3, 0] = a[1, 0]  # the whole frame
    b[0, 1] = a[2, 1]  # the head alone
    b[4] = a[0]  # both count once
    pairs = duplicates.near_pairs(a, b)
    assert pairs.dtype == np.int64 and pairs.tolist() == [[0, 4], [1, 3], [2, 0]]
    assert duplicates.has_twin(a, b).tolist() == [True, True, True, False]


def test_near_pairs_by_blocks_equals_all_at_once(monkeypatch):
    a = random_thumbnails(23)
    a[20], a[11] = a[3], a[3]
    whole = duplicates.near_pairs(a, a)
    assert {(3, 20), (20, 3), (11, 20), (3, 3)} <= set(map(tuple, whole.tolist()))
    monkeypatch.setattr(duplicates, "_ROWS_AT_ONCE", 4)
    np.testing.assert_array_equal(duplicates.near_pairs(a, a), whole)


def test_threshold():
    a = random_thumbnails(1)
    b = np.clip(a + np.random.default_rng(2).normal(0, 40, a.shape), 0, 255).astype(np.uint8)
    correlation = max(np.corrcoef(a[0, kind].ravel(), b[0, kind].ravel())[0, 1] for kind in range(2))
    assert duplicates.has_twin(a, b, threshold=correlation - 1e-4).all()
    assert not duplicates.has_twin(a, b, threshold=correlation + 1e-4).any()


def test_nothing_has_a_twin_among_nothing():
    some, none = random_thumbnails(3), random_thumbnails(0)
    assert duplicates.has_twin(some, none).tolist() == [False] * 3
    assert duplicates.has_twin(none, some).shape == (0,)


@hypothesis.settings(deadline=None)
@hypothesis.given(graph=edges)
def test_components_are_those_of_a_plain_search(graph):
    n, pairs = graph
    smallest = list(range(n))
    for _ in range(n):
        for i, j in pairs:
            smallest[i] = smallest[j] = min(smallest[i], smallest[j])
    assert duplicates.components(n, pairs).tolist() == smallest


@hypothesis.settings(deadline=None)
@hypothesis.given(values=st.lists(st.sampled_from("abcd")))
def test_same_value_pairs_join_exactly_equal_values(values):
    roots = duplicates.components(len(values), duplicates.same_value_pairs(values))
    assert roots.tolist() == [values.index(value) for value in values]


@pytest.mark.real_data
def test_exact_facts_of_the_real_set(real_dataset):
    training, testing = real_dataset.of_split("Training"), real_dataset.of_split("Testing")
    assert (len(training), len(testing)) == (2870, 263)
    assert len(set(training.fingerprints)) == 2769
    seen = set(training.fingerprints)
    identical = np.array([fingerprint in seen for fingerprint in testing.fingerprints])
    assert identical.sum() == 251
    assert np.bincount(testing.labels[identical], minlength=4).tolist() == [18, 106, 105, 22]
    near = duplicates.has_twin(testing.thumbnails, training.thumbnails)
    assert near[identical].all()
    assert near.sum() == 259
    np.testing.assert_array_equal(seen_images.has_twin(testing, seen, training.thumbnails), near)
