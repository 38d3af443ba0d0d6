"""How well scores rank the images of a class above all others: ROC and precision-recall curves, and what lies on them.

An image counts as found where its score reaches a threshold; images of equal score are found together.
"""

import numpy as np

# Of specificities computed from counts: 1 - 0.1 is not 0.9 to the last bit.
_ROUNDING = 1e-9


def roc_curve(is_positive: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """False and true positive rates from (0, 0) to (1, 1), one point for each distinct score.

    Args:
      is_positive: [N] bool.
      scores: [N] floats, higher for positives.

    Returns:
      False positive rates [K + 1] and true positive rates [K + 1] as float64, for K distinct scores.

    Raises:
      ValueError: no positive or no negative image, or shapes that differ.
    """
    is_positive, scores = _check(is_positive, scores)
    if is_positive.all() or not is_positive.any():
        raise ValueError("a ROC curve needs positive and negative images")
    true, false = _count_found(is_positive, scores)
    return np.append(0, false) / false[-1], np.append(0, true) / true[-1]


def area_under_roc(is_positive: np.ndarray, scores: np.ndarray) -> float:
    """Probability that a positive [N] bool outranks a negative, a tie counting half; NaN without both kinds.

    This is the Mann-Whitney U, from average ranks.
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
    """Area under the precision-recall curve as the sum of precision times gain in recall, threshold by threshold.

    Straight lines between the points would be too optimistic (Davis and Goadrich 2006, doi:10.1145/1143844.1143874).
    NaN without positives; 1 where all are.
    """
    is_positive, scores = _check(is_positive, scores)
    if not is_positive.any():
        return np.nan
    true, false = _count_found(is_positive, scores)
    return float((np.diff(true, prepend=0) / true[-1] * true / (true + false)).sum())


def sensitivity_at_specificity(is_positive: np.ndarray, scores: np.ndarray, *, specificity: float) -> float:
    """The largest sensitivity among the thresholds with at least that specificity; NaN without both kinds of images.

    The threshold is chosen with the very images it is scored on, so on few images the result is optimistic.
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
    """True and false positives at each distinct score as the threshold, from the highest: two [K] of counts."""
    order = np.argsort(-scores, kind="stable")
    last_of_ties = np.append(np.diff(scores[order]) != 0, True)
    return np.cumsum(is_positive[order])[last_of_ties], np.cumsum(~is_positive[order])[last_of_ties]
