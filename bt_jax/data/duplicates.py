"""Twins among images: which are nearly the same picture, and the groups that such pairs form."""

from collections.abc import Hashable, Iterable, Sequence

import numpy as np

# Correlation of 64x64 copies from which two images of the Kaggle set are the same slice, resized or recompressed.
NEAR_DUPLICATE = 0.98
_ROWS_AT_ONCE = 1024


def standardised(thumbnails: np.ndarray) -> np.ndarray:
    """Copies [N, ...] as rows [N, D] float32 whose products are correlations; constant ones become 0."""
    rows = thumbnails.reshape(len(thumbnails), -1).astype(np.float32)
    rows -= rows.mean(1, keepdims=True)
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.divide(rows, lengths, out=np.zeros_like(rows), where=lengths > 1e-3)


def near_pairs(a: np.ndarray, b: np.ndarray, *, threshold: float = NEAR_DUPLICATE) -> np.ndarray:
    """Pairs (i, j) [P, 2] with a correlation of at least `threshold` in one of the two kinds of thumbnails.

    Args:
      a: thumbnails [N, 2, S, S] as `fingerprints.thumbnails` makes them.
      b: thumbnails [M, 2, S, S] to compare with.
      threshold: smallest correlation.
    """
    found: set[tuple[int, int]] = set()
    for kind in range(2):
        rows, others = standardised(a[:, kind]), standardised(b[:, kind])
        for start in range(0, len(rows), _ROWS_AT_ONCE):
            i, j = np.nonzero(rows[start : start + _ROWS_AT_ONCE] @ others.T >= threshold)
            found.update(zip((i + start).tolist(), j.tolist(), strict=True))
    return np.array(sorted(found), np.int64).reshape(-1, 2)


def has_twin(a: np.ndarray, b: np.ndarray, *, threshold: float = NEAR_DUPLICATE) -> np.ndarray:
    """Which of the thumbnails `a` [N, 2, S, S] have a near duplicate among `b` [M, 2, S, S]: [N] bool."""
    found = np.zeros(len(a), bool)
    if len(a) and len(b):
        found[near_pairs(a, b, threshold=threshold)[:, 0]] = True
    return found


def components(n: int, pairs: Iterable[tuple[int, int]]) -> np.ndarray:
    """The smallest member of each number's connected component: [n] int64."""
    parent = np.arange(n)

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    for i, j in pairs:
        low, high = sorted((root(i), root(j)))
        parent[high] = low
    return np.array([root(i) for i in range(n)], np.int64)


def same_value_pairs(values: Sequence[Hashable]) -> list[tuple[int, int]]:
    """(first, later) for each later occurrence of a value."""
    first: dict[Hashable, int] = {}
    return [(first[value], i) for i, value in enumerate(values) if first.setdefault(value, i) != i]
