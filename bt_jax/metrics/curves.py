"""Ranking metrics of one class against the rest: ROC and precision-recall curves and their summaries.

An image is predicted positive if its score reaches the threshold, so images with equal scores are treated alike.
"""

import numpy as np

# Tolerance for specificities computed from counts: 1 - 0.1 is not exactly 0.9.
_ROUNDING = 1e-9


def roc_curve(is_positive: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Computes false and true positive rates from (0, 0) to (1, 1), one point for each distinct score.

    Args:
      is_positive: [N] bool.
      scores: [N] floats, higher for positives.

    Returns:
      False positive rates [K + 1] and true positive rates [K + 1] as float64, for K distinct scores.

    Raises:
      ValueError: there is no positive or no negative image, or the shapes differ.
    """
    is_positive, scores = _check(is_positive, scores)
    if is_positive.all() or not is_positive.any():
        raise ValueError("a ROC curve needs positive and negative images")
    true, false = _count_found(is_positive, scores)
    return np.append(0, false) / false[-1], np.append(0, true) / true[-1]


def area_under_roc(is_positive: np.ndarray, scores: np.ndarray) -> float:
    """Computes the probability that a positive outranks a negative, ties counting half; NaN without both kinds.

    It is the Mann-Whitney U statistic from average ranks. Shapes as in `roc_curve`.
    """
    is_positive, scores = _check(is_positive, scores)
    positives = int(is_positive.sum())
    negatives = len(is_positive) - positives
    if not positives or not negatives:
        return np.nan
    _, inverse, count = np.unique(scores, return_inverse=True, return_counts=True)
    average_rank = np.cumsum(count) - (count - 1) / 2
    rank_sum = average_rank[inverse][is_positive].sum()
    return float((rank_sum - positives * (positives + 1) / 2) / (positives * negatives))


def average_precision(is_positive: np.ndarray, scores: np.ndarray) -> float:
    """Computes the area under the precision-recall curve: the sum over thresholds of precision times gain in recall.

    Linear interpolation would be too optimistic (Davis and Goadrich 2006, doi:10.1145/1143844.1143874). NaN without
    positives; 1 if all images are positive.
    """
    is_positive, scores = _check(is_positive, scores)
    if not is_positive.any():
        return np.nan
    true, false = _count_found(is_positive, scores)
    return float((np.diff(true, prepend=0) / true[-1] * true / (true + false)).sum())


def sensitivity_at_specificity(is_positive: np.ndarray, scores: np.ndarray, *, specificity: float) -> float:
    """Returns the largest sensitivity at a threshold with at least that specificity; NaN without both kinds of images.

    The threshold is selected on the images that are scored, so the result is optimistic on few images.
    """
    is_positive, scores = _check(is_positive, scores)
    if is_positive.all() or not is_positive.any():
        return np.nan
    false, true = roc_curve(is_positive, scores)
    return float(true[1 - false >= specificity - _ROUNDING].max())


def _check(is_positive: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    is_positive, scores = np.asarray(is_positive, bool), np.asarray(scores, np.float64)
    if is_positive.shape != scores.shape or is_positive.ndim != 1:
        raise ValueError(f"is_positive {is_positive.shape} and scores {scores.shape} must be [N]")
    return is_positive, scores


def _count_found(is_positive: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Counts true and false positives with each distinct score as the threshold, from the highest: two arrays [K]."""
    order = np.argsort(-scores, kind="stable")
    last_of_ties = np.append(np.diff(scores[order]) != 0, True)
    return np.cumsum(is_positive[order])[last_of_ties], np.cumsum(~is_positive[order])[last_of_ties]
