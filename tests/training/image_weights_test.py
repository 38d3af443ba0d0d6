"""Weights in the loss: of classes as scikit-learn computes them, and of images."""

import numpy as np
import pytest
from sklearn.utils.class_weight import compute_class_weight

from bt_jax.common.errors import UsageError
from bt_jax.training import image_weights


def test_balanced_weights_are_those_of_scikit_learn():
    labels = np.array([0] * 30 + [1] * 5 + [2] * 7 + [3])
    expected = compute_class_weight("balanced", classes=np.arange(4), y=labels)
    np.testing.assert_allclose(image_weights.compute_class_weights("balanced", labels, 4), expected, rtol=1e-6)
    # A class without images has no say, and the others keep their balance.
    np.testing.assert_allclose(image_weights.compute_class_weights("balanced", labels, 5), [*expected, 0], rtol=1e-6)


def test_given_weights():
    labels = np.zeros(3, int)
    np.testing.assert_array_equal(image_weights.compute_class_weights("none", labels, 3), [1, 1, 1])
    np.testing.assert_array_equal(image_weights.compute_class_weights("1, 2,.5", labels, 3), [1, 2, 0.5])
    np.testing.assert_array_equal(image_weights.compute_class_weights((1, 2, 3), labels, 3), [1, 2, 3])
    for wrong in ("1,2", "a,b,c", "1,2,-1", "1,2,nan"):
        with pytest.raises(UsageError, match=r"config\.loss\.class_weights"):
            image_weights.compute_class_weights(wrong, labels, 3)


def test_an_image_has_the_weight_of_its_class_times_its_own():
    labels, own = np.array([0, 1, 1, 2]), np.float32([1, 2, 3, 0.5])
    weigh = image_weights.compute_image_weights
    np.testing.assert_array_equal(weigh((1, 2, 4), labels, 3, balancing=own), [1, 4, 6, 2])
    np.testing.assert_array_equal(weigh((1, 2, 4), labels, 3, balancing=None), [1, 2, 2, 4])
    np.testing.assert_array_equal(weigh("none", labels, 3, balancing=own), own)
    assert weigh("none", labels, 3, balancing=None) is None
    assert weigh("balanced", labels, 3, balancing=None).dtype == np.float32
