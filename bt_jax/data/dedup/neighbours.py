"""Approximate nearest neighbours by an inverted file index: rows are clustered, and only a few cells are searched."""

import math

import numpy as np

_ROUNDS = 5  # of k-means; better centres would save little time
_ROWS_PER_CELL_TO_LEARN = 64  # k-means is fitted to a sample of this size
_QUERIES_AT_ONCE = 4096


class CellIndex:
    """An index of rows [N, D] float32 in about sqrt(N) cells around k-means centres.

    A search with N queries takes about N^1.5 steps: each query is compared with the centres and the rows of some cells.
    """

    def __init__(self, rows: np.ndarray):
        self.rows = rows
        generator = np.random.default_rng(0)
        cells = max(1, math.isqrt(len(rows)))
        sample = rows[np.sort(generator.choice(len(rows), min(len(rows), cells * _ROWS_PER_CELL_TO_LEARN), False))]
        self.centres = sample[np.sort(generator.choice(len(sample), cells, False))] if len(rows) else rows[:0]
        for _ in range(_ROUNDS if len(rows) else 0):
            of_sample = _assign_centres(sample, self.centres)
            sums = np.zeros_like(self.centres)
            np.add.at(sums, of_sample, sample)
            counts = np.bincount(of_sample, minlength=len(self.centres))[:, None]
            self.centres = np.where(counts > 0, sums / np.maximum(counts, 1), self.centres).astype(np.float32)
        cell_of = _assign_centres(rows, self.centres)
        self.members = [np.flatnonzero(cell_of == cell) for cell in range(len(self.centres))]

    def search(
        self, queries: np.ndarray, *, count: int, most: int, cells: int, sure: float, itself: bool = False
    ) -> tuple[np.ndarray, np.ndarray]:
        """Returns distinct pairs (query, row), each [P] int64, in no particular order.

        Args:
          queries: [M, D] float32.
          count: number of nearest rows for each query, at any distance.
          cells: number of cells searched for each query, those with the nearest centres.
          most: largest number of rows for each query.
          sure: rows within this distance are added beyond `count`, up to `most`.
          itself: whether query i is row i, or a view of it, and must not be paired with it.
        """
        found = [
            self._search_block(queries, start, count=count, most=most, cells=cells, sure=sure, itself=itself)
            for start in range(0, len(queries), _QUERIES_AT_ONCE)
        ]
        pairs = np.concatenate([*found, np.zeros((2, 0), np.int64)], axis=1)
        return pairs[0], pairs[1]

    def _search_block(
        self, queries: np.ndarray, start: int, *, count: int, most: int, cells: int, sure: float, itself: bool
    ) -> np.ndarray:
        block = queries[start : start + _QUERIES_AT_ONCE]
        searched = _mark_smallest(_compute_squared_distances(block, self.centres), cells)
        pairs, distances = [], []
        for cell, members in enumerate(self.members):
            who = np.flatnonzero(searched[:, cell])
            if not len(who) or not len(members):
                continue
            squares = _compute_squared_distances(block[who], self.rows[members])
            if itself:
                squares[(who[:, None] + start) == members] = np.inf
            i, j = np.nonzero((_mark_smallest(squares, count) & (squares < np.inf)) | (squares <= sure**2))
            pairs.append(np.stack([who[i] + start, members[j]]))
            distances.append(squares[i, j])
        if not pairs:
            return np.zeros((2, 0), np.int64)
        return _keep_nearest(np.concatenate(pairs, 1), np.concatenate(distances), count=count, most=most, sure=sure)


def _keep_nearest(pairs: np.ndarray, distances: np.ndarray, *, count: int, most: int, sure: float) -> np.ndarray:
    """Keeps the `count` nearest rows of each query, and up to `most` within `sure`."""
    order = np.lexsort((pairs[1], distances, pairs[0]))
    pairs, distances = pairs[:, order], distances[order]
    first = np.searchsorted(pairs[0], pairs[0])  # first row of the same query
    place = np.arange(len(order)) - first
    return pairs[:, (place < count) | ((place < most) & (distances <= sure**2))]


def _mark_smallest(values: np.ndarray, count: int) -> np.ndarray:
    """Marks the `count` smallest values of each row: [M, N] bool."""
    if count >= values.shape[1]:
        return np.ones(values.shape, bool)
    smallest = np.zeros(values.shape, bool)
    np.put_along_axis(smallest, np.argpartition(values, count - 1, axis=1)[:, :count], True, 1)
    return smallest


def _assign_centres(rows: np.ndarray, centres: np.ndarray) -> np.ndarray:
    blocks = [
        _compute_squared_distances(rows[start : start + _QUERIES_AT_ONCE], centres).argmin(1)
        for start in range(0, len(rows), _QUERIES_AT_ONCE)
    ]
    return np.concatenate([*blocks, np.zeros(0, np.int64)])


def _compute_squared_distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Computes squared distances between rows: [M, N] float32."""
    squares = (a * a).sum(1)[:, None] + (b * b).sum(1) - 2 * (a @ b.T)
    return np.maximum(squares, 0, out=squares)
