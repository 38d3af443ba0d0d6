"""The weight of each training image in the loss: that of its class, times one of its own."""

import math
from collections.abc import Sequence

import numpy as np

from bt_jax.common.errors import UsageError


def compute_image_weights(
    setting: str | Sequence[float], labels: np.ndarray, classes: int, *, balancing: np.ndarray | None
) -> np.ndarray | None:
    """Computes the weights of the images, [N] float32; None if all are 1.

    They are data, not constants of the training step: folds with other weights share its program.

    Args:
      setting: see `compute_class_weights`.
      labels: [N] of the training images.
      classes: number of classes.
      balancing: [N] float32, further factors; None: all 1.
    """
    by_class = compute_class_weights(setting, labels, classes)
    if balancing is None and (by_class == 1).all():
        return None
    weights = by_class[labels]
    return weights if balancing is None else weights * balancing


def compute_class_weights(setting: str | Sequence[float], labels: np.ndarray, classes: int) -> np.ndarray:
    """Computes the weight of each class in the loss, [classes] float32.

    Args:
      setting: `none`; `balanced`, N / (classes present x images of the class) as scikit-learn's
        `compute_class_weight`, 0 for a class without images; or numbers in class order, also as "1,1,2,1".
      labels: [N] of the training images.
      classes: number of classes.
    """
    given = parse_class_weights(setting, classes=classes)
    if given == "none":
        return np.ones(classes, np.float32)
    if given == "balanced":
        counts = np.bincount(labels, minlength=classes)
        weights = len(labels) / ((counts > 0).sum() * np.maximum(counts, 1))
        return np.where(counts > 0, weights, 0).astype(np.float32)
    return np.array(given, np.float32)


def parse_class_weights(setting: str | Sequence[float], *, classes: int | None) -> str | list[float]:
    """Reads the setting of `class_weights`: `none`, `balanced`, or a number for each class.

    Args:
      setting: as of `class_weights`.
      classes: how many there are; None: not known yet, as before the data is read.

    Raises:
      UsageError: it is none of these.
    """
    if setting in ("none", "balanced"):
        return str(setting)
    try:
        values = [float(value) for value in (setting.split(",") if isinstance(setting, str) else setting)]
    except ValueError:
        values = []
    if not values or len(values) != (classes or len(values)) or not all(0 <= value < math.inf for value in values):
        count = "" if classes is None else f"{classes} "
        raise UsageError(
            f"config.loss.class_weights is {setting!r}: use none, balanced, or {count}numbers that are not negative"
        )
    return values
