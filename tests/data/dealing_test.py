"""The same folds as scikit-learn's, to the last tie."""

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.model_selection import StratifiedGroupKFold

from bt_jax.data import dealing, splits


def reference(labels: np.ndarray, groups: np.ndarray, folds: int) -> np.ndarray:
    fold = np.empty(len(labels), np.int64)
    splitter = StratifiedGroupKFold(n_splits=folds, shuffle=True, random_state=0)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The least populated class")
        for number, (_, left_out) in enumerate(splitter.split(np.zeros(len(labels)), labels, groups)):
            fold[left_out] = number
    return fold


def dense(values: np.ndarray) -> np.ndarray:
    return np.unique(values, return_inverse=True)[1]


@settings(deadline=None, max_examples=300)
@given(
    seed=st.integers(0, 2**32 - 1),
    classes=st.integers(2, dealing.MOST_CLASSES),
    folds=st.integers(2, 10),
    groups=st.integers(10, 80),
    per_group=st.integers(1, 6),
    mixed=st.booleans(),
)
def test_as_scikit_learn(seed: int, classes: int, folds: int, groups: int, per_group: int, mixed: bool) -> None:
    generator = np.random.default_rng(seed)
    group = dense(generator.integers(0, groups, groups * per_group))
    label = dense(generator.integers(0, classes, len(group)) if mixed else group % classes)
    if group.max() + 1 < folds or (np.bincount(label) < folds).all() or label.max() < 1:
        return
    np.testing.assert_array_equal(
        dealing.assign_stratified_groups(label, group, folds=folds), reference(label, group, folds)
    )


def test_many_equal_groups() -> None:
    """Whose order is nothing but ties, as of phantoms."""
    group = np.arange(2000) // 4
    label = group % 4
    found = dealing.assign_stratified_groups(label, group, folds=5)
    np.testing.assert_array_equal(found, reference(label, group, 5))
    assert np.bincount(found).tolist() == [400] * 5


def test_more_classes_are_refused() -> None:
    with pytest.raises(ValueError, match="8 classes"):
        dealing.assign_stratified_groups(np.arange(8), np.arange(8), folds=2)


@pytest.mark.parametrize("classes", [1, 4, 9])
def test_any_number_of_classes_is_divided_alike(classes: int) -> None:
    """Those that are not dealt out here are given to scikit-learn."""
    generator = np.random.default_rng(0)
    groups = generator.integers(0, 60, 500)
    names = [f"patient {group:02d}" for group in groups]
    labels = generator.integers(3, 3 + classes, 500)
    found = splits.assign_folds(labels=labels, groups=names, folds=5, class_names="abcdefghijkl")
    np.testing.assert_array_equal(found, reference(dense(labels), dense(groups), 5))
