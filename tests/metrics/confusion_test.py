import numpy as np
import pytest
import sklearn.metrics
from hypothesis import given, settings
from hypothesis import strategies as st

from bt_jax.metrics import confusion


@given(seed=st.integers(0, 1000), n=st.integers(1, 60), classes=st.integers(2, 5))
@settings(max_examples=60, deadline=None)
def test_many_matrices_are_measured_as_one(seed: int, n: int, classes: int) -> None:
    rng = np.random.default_rng(seed)
    labels, predictions = rng.integers(0, classes, (2, 3, n))
    matrices = np.stack([confusion.count_confusions(y, p, classes) for y, p in zip(labels, predictions, strict=True)])
    together = confusion.compute_measures(matrices)
    for i in range(3):
        np.testing.assert_array_equal(
            matrices[i], sklearn.metrics.confusion_matrix(labels[i], predictions[i], labels=np.arange(classes))
        )
        alone = confusion.compute_measures(matrices[i])
        for name in alone._fields:
            np.testing.assert_array_equal(getattr(together, name)[i], getattr(alone, name), err_msg=name)
        assert together.accuracy[i] == pytest.approx(sklearn.metrics.accuracy_score(labels[i], predictions[i]))
        present = np.unique(labels[i])
        expected = sklearn.metrics.f1_score(labels[i], predictions[i], labels=present, average="macro", zero_division=0)
        assert together.macro(together.f1)[i] == pytest.approx(expected)


def test_what_is_undefined_is_nan() -> None:
    empty = confusion.compute_measures(np.zeros((2, 2), int))
    for name in ("accuracy", "precision", "recall", "f1", "specificity"):
        assert np.isnan(getattr(empty, name)).all()
    assert np.isnan(empty.macro(empty.f1))
    one_class = confusion.compute_measures(np.array([[3, 1], [0, 0]]))
    assert one_class.precision.tolist() == [1.0, pytest.approx(np.nan, nan_ok=True)]
    assert np.isnan(one_class.macro(one_class.specificity))
    never_predicted = confusion.compute_measures(np.array([[2, 0], [1, 0]]))
    assert (never_predicted.precision[1], never_predicted.f1[1]) == (0.0, 0.0)


def test_divide_of_numbers_and_rows() -> None:
    assert confusion.divide(np.array(3), np.array(2)) == 1.5
    assert confusion.divide(np.array([1, 1]), np.array([2, 0]), undefined=0.0).tolist() == [0.5, 0.0]
