"""The folds of scikit-learn's StratifiedGroupKFold without its import, and for hundreds of thousands of groups."""

import math

import numpy as np

MOST_CLASSES = 7  # NumPy adds up more numbers in another order


def assign_stratified_groups(labels: np.ndarray, groups: np.ndarray, *, folds: int) -> np.ndarray:
    """The fold in which each row is left out: [N] int64, as `StratifiedGroupKFold` gives it, to the last tie.

    With `shuffle=True` and `random_state=0`. It deals out the groups, those of the most uneven classes first, each to
    the fold that makes the classes' shares in all folds most alike, and computes all of them anew each time; here only
    what a group changes is computed, by the same operations in the same order, so that ties fall the same way.

    Args:
      labels: [N] integers from 0, each of which occurs.
      groups: [N] integers from 0, each of which occurs, in the order of the groups' names.
      folds: number of folds.
    """
    classes, count = int(labels.max()) + 1, int(groups.max()) + 1
    if classes > MOST_CLASSES:
        raise ValueError(f"{classes} classes: at most {MOST_CLASSES} are dealt out as scikit-learn does")
    sizes = np.zeros((count, classes))  # images of each class in each group
    np.add.at(sizes, (groups, labels), 1)
    order = np.arange(count)
    np.random.RandomState(0).shuffle(order)  # what random_state=0 stands for
    order = order[np.argsort(-np.std(sizes[order], axis=1), kind="stable")]
    totals = np.bincount(labels).tolist()

    numbers = range(folds)
    dealt = [[0.0] * classes for _ in numbers]  # images of each class in each fold
    shares = [[0.0] * folds for _ in range(classes)]
    spread = [_compute_deviation(column) for column in shares]
    images = [0.0] * folds
    fold_of = np.empty(count, np.int64)
    for group, in_group in zip(order.tolist(), sizes[order].tolist(), strict=True):
        present = [(label, number) for label, number in enumerate(in_group) if number]
        best, least, fewest, best_spread = -1, math.inf, math.inf, spread
        for fold in numbers:
            there, changed = dealt[fold], spread.copy()
            for label, number in present:
                column = shares[label]
                before = column[fold]
                column[fold] = (there[label] + number) / totals[label]
                changed[label] = _compute_deviation(column)
                column[fold] = before
            value = 0.0
            for deviation in changed:
                value += deviation
            value /= classes
            if value < least or (_is_close(value, least) and images[fold] < fewest):
                best, least, fewest, best_spread = fold, value, images[fold], changed
        fold_of[group], spread = best, best_spread
        for label, number in present:
            dealt[best][label] += number
            shares[label][best] = dealt[best][label] / totals[label]
            images[best] += number
    return fold_of[groups]


def _compute_deviation(column: list[float]) -> float:
    """As `numpy.std` of an axis that is not the last."""
    count = len(column)
    mean = 0.0
    for value in column:
        mean += value
    mean /= count
    total = 0.0
    for value in column:
        value -= mean
        total += value * value
    return math.sqrt(total / count)


def _is_close(a: float, b: float) -> bool:
    """As `numpy.isclose`, of a number that is not infinite."""
    return abs(a - b) <= 1e-8 + 1e-5 * abs(b)
