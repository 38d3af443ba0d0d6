"""Groups of training images, and the stratified split into folds that keeps groups together."""

import math
from collections.abc import Mapping, Sequence

import numpy as np

from bt_jax.common import waiting
from bt_jax.common.errors import UsageError
from bt_jax.data import kaggle_patients
from bt_jax.data.dedup import near_duplicates

# Number of images up to which near-duplicates are searched: the time for more would be too long.
MAX_COMPARED = 50_000
MAX_CLASSES = 7  # NumPy sums more numbers in another order
NO_IMAGES = "there are no readable images to train on"


def group_images(
    *,
    paths: Sequence[str],
    fingerprints: Sequence[str],
    thumbnails: np.ndarray,
    table: Mapping[str, str],
    similar: Sequence[tuple[int, int]] | None = None,
) -> tuple[list[str], str]:
    """Groups images by patient where it is known, and otherwise with their near-duplicates and similar slices.

    Pixel-identical images always share a group.

    Args:
      paths: [N].
      fingerprints: [N], see `fingerprints.fingerprint`.
      thumbnails: [N, 2, S, S] uint8, see `fingerprints.make_thumbnails`.
      table: path -> group of the data's own `groups.csv`; may be empty or lack images.
      similar: pairs of rows found by `near_duplicates.find_near_duplicates`; None searches for them.

    Returns:
      The groups [N], and where they come from, for reports.
    """
    known = [
        table.get(path) or kaggle_patients.load_groups().get(fingerprint)
        for path, fingerprint in zip(paths, fingerprints, strict=True)
    ]
    from_table = sum(path in table for path in paths)
    from_manifest = sum(group is not None for group in known) - from_table
    pairs = near_duplicates.pair_equal_values(fingerprints)
    unknown = [i for i, group in enumerate(known) if group is None]
    if similar is not None:
        pairs += [(i, j) for i, j in similar if known[i] is None or known[j] is None]
    elif unknown:
        with waiting.report(f"searching {len(thumbnails):,} images for near-duplicates"):
            found = near_duplicates.find_near_duplicates(thumbnails[unknown], thumbnails)
        pairs += [(unknown[i], j) for i, j in zip(found.first.tolist(), found.second.tolist(), strict=True)]
    members = {group: i for i, group in reversed(list(enumerate(known))) if group is not None}
    pairs += [(members[group], i) for i, group in enumerate(known) if group is not None]
    roots = near_duplicates.find_components(len(paths), pairs)
    name_of: dict[int, str] = {}
    for i, root in enumerate(roots.tolist()):
        group = known[i]
        if group is not None:
            name_of[root] = min(name_of.get(root, group), group)
    groups = [name_of.get(root, f"images-like-{root}") for root in roots.tolist()]
    origins = [
        (from_table, "groups.csv"),
        (from_manifest, "the known patients of this data set"),
        (len(unknown), "near-duplicates, since their patients are unknown"),
    ]
    return groups, ", ".join(f"{count} images by {origin}" for count, origin in origins if count)


def assign_folds(
    *, labels: Sequence[int] | np.ndarray, groups: Sequence[str] | np.ndarray, folds: int, class_names: Sequence[str]
) -> np.ndarray:
    """Assigns each image to the fold in which it is validated: [N] int.

    Args:
      labels: [N] class numbers, in the order of the images' paths.
      groups: [N] names, or numbers in the order of the names. A group is never divided.
      folds: number of folds.
      class_names: for error messages.

    Raises:
      UsageError: no images, or fewer groups of a class than folds.
    """
    if folds < 2:
        raise UsageError(f"config.data.folds is {folds}: use at least 2")
    y = np.asarray(labels)
    if not len(y):
        raise UsageError(NO_IMAGES)
    g = np.unique(np.asarray(groups), return_inverse=True)[1]
    for label in np.unique(y):
        of_class = len(np.unique(g[y == label]))
        if of_class < folds:
            raise UsageError(
                f"config.data.folds is {folds}, but {class_names[label]} has images of only {of_class} patients or "
                f"groups: use fewer folds or more data"
            )
    of_label, dense = np.unique(y, return_inverse=True)
    if 1 < len(of_label) <= MAX_CLASSES:
        return assign_stratified_groups(dense, g, folds=folds)
    from sklearn.model_selection import StratifiedGroupKFold  # the import takes a second, and few runs need it

    fold = np.empty(len(y), np.int64)
    splitter = StratifiedGroupKFold(n_splits=folds, shuffle=True, random_state=0)
    for number, (_, validation) in enumerate(splitter.split(np.zeros(len(y)), y, g)):
        fold[validation] = number
    return fold


def assign_stratified_groups(labels: np.ndarray, groups: np.ndarray, *, folds: int) -> np.ndarray:
    """Computes the folds of scikit-learn's `StratifiedGroupKFold` without its import, and for many groups: [N] int64.

    The result equals that of `shuffle=True` and `random_state=0`, including ties. Groups are assigned in the order of
    decreasing class imbalance, each to the fold that makes the class shares of all folds most equal. scikit-learn
    recomputes all shares for each group. Here only the changed ones are computed, by the same operations in the same
    order, so that ties are broken in the same way.

    Args:
      labels: [N] integers from 0, each of which occurs.
      groups: [N] integers from 0, each of which occurs, in the order of the groups' names.
      folds: number of folds.
    """
    classes, count = int(labels.max()) + 1, int(groups.max()) + 1
    if classes > MAX_CLASSES:
        raise ValueError(f"{classes} classes: at most {MAX_CLASSES} are supported")
    sizes = np.zeros((count, classes))  # images of each class in each group
    np.add.at(sizes, (groups, labels), 1)
    order = np.arange(count)
    np.random.RandomState(0).shuffle(order)  # the generator of random_state=0
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
    """Computes `numpy.std` of an axis that is not the last, with the same rounding."""
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
    """Returns `numpy.isclose` of two numbers, of which the first is finite."""
    return abs(a - b) <= 1e-8 + 1e-5 * abs(b)
