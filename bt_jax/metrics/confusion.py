"""What a confusion matrix says of each class, for one matrix or for many at once.

Undefined is NaN: recall, precision and F1 of a class without images, specificity of a class that all images belong to,
the accuracy of no images. Precision of a class that has images and is never predicted is 0.
"""

from typing import NamedTuple

import numpy as np


class Measures(NamedTuple):
    """Of confusion matrices [..., C, C].

    Attributes:
      accuracy: [...].
      precision: [..., C], as all that follow.
      recall: share of the class's images that are found.
      f1: harmonic mean of precision and recall.
      specificity: share of the other images that are not taken for the class.
      support: images of the class.
    """

    accuracy: np.ndarray
    precision: np.ndarray
    recall: np.ndarray
    f1: np.ndarray
    specificity: np.ndarray
    support: np.ndarray

    def macro(self, values: np.ndarray) -> np.ndarray:
        """Mean [...] of values [..., C] over the classes that have images; NaN without any, or where one is NaN."""
        supported = self.support > 0
        return divide(np.where(supported, values, 0).sum(axis=-1), supported.sum(axis=-1))


def count_confusions(labels: np.ndarray, predictions: np.ndarray, classes: int) -> np.ndarray:
    """Images by true class and prediction: two [N] of integers -> [C true, C predicted] int64."""
    return np.bincount(labels * classes + predictions, minlength=classes**2).reshape(classes, classes)


def compute_measures(matrices: np.ndarray) -> Measures:
    """Of one matrix [C true, C predicted] of counts, or of many [..., C, C]."""
    correct = matrices.diagonal(axis1=-2, axis2=-1)
    support, predicted = matrices.sum(axis=-1), matrices.sum(axis=-2)
    n = support.sum(axis=-1, keepdims=True)
    negatives = n - support
    return Measures(
        accuracy=divide(correct.sum(axis=-1), n[..., 0]),
        precision=np.where(support > 0, divide(correct, predicted, undefined=0.0), np.nan),
        recall=divide(correct, support),
        f1=np.where(support > 0, divide(2 * correct, support + predicted), np.nan),
        specificity=divide(negatives - (predicted - correct), negatives),
        support=support,
    )


def divide(numerator: np.ndarray, denominator: np.ndarray, undefined: float = np.nan) -> np.ndarray:
    """Quotients as float64, `undefined` where the denominator is 0."""
    quotients = np.full(np.shape(denominator), undefined)
    return np.divide(numerator, denominator, out=quotients, where=np.asarray(denominator) > 0)
