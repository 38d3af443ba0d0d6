"""Metrics of each class from a confusion matrix, for one matrix or for many at once.

Undefined values are NaN: recall, precision and F1 of a class without images, specificity of a class that all images
belong to, accuracy without images. Precision is 0 for a class that has images and is never predicted.
"""

from typing import NamedTuple

import numpy as np


class Measures(NamedTuple):
    """Metrics of confusion matrices [..., C, C].

    Attributes:
      accuracy: [...].
      precision: [..., C], like all that follow.
      recall: fraction of the images of the class that are predicted as it.
      f1: harmonic mean of precision and recall.
      specificity: fraction of the other images that are not predicted as the class.
      support: number of images of the class.
    """

    accuracy: np.ndarray
    precision: np.ndarray
    recall: np.ndarray
    f1: np.ndarray
    specificity: np.ndarray
    support: np.ndarray

    def macro(self, values: np.ndarray) -> np.ndarray:
        """Averages values [..., C] over the classes that have images; NaN if there are none or a value is NaN."""
        supported = self.support > 0
        return divide(np.where(supported, values, 0).sum(axis=-1), supported.sum(axis=-1))


def count_confusions(labels: np.ndarray, predictions: np.ndarray, classes: int) -> np.ndarray:
    """Counts images by true and predicted class: two arrays [N] of integers -> [C true, C predicted] int64."""
    return np.bincount(labels * classes + predictions, minlength=classes**2).reshape(classes, classes)


def compute_measures(matrices: np.ndarray) -> Measures:
    """Computes the metrics of one matrix of counts [C true, C predicted] or of many [..., C, C]."""
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
    """Divides in float64 and returns `undefined` where the denominator is 0."""
    quotients = np.full(np.shape(denominator), undefined)
    return np.divide(numerator, denominator, out=quotients, where=np.asarray(denominator) > 0)
