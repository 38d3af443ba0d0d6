"""Near-duplicates: images of the same picture, copied, resized, recompressed, cropped, rotated or mirrored.

A nearest-neighbour search on small thumbnails proposes pairs, and alignment confirms them (see `registration`). Each
image takes the same few comparisons, for any number of images. Labels and patients are not used.
"""

import concurrent.futures
import dataclasses
import math
import os
from collections.abc import Callable, Hashable, Iterable, Sequence

import numpy as np

from bt_jax.data.dedup import registration
from bt_jax.data.dedup.neighbours import CellIndex

# The transform of the second image of a pair that gives the first.
ORIENTATIONS = (
    "upright",
    "rotated by 90 degrees",
    "rotated by 180 degrees",
    "rotated by 270 degrees",
    "mirrored",
    "mirrored and rotated by 90 degrees",
    "mirrored and rotated by 180 degrees",
    "mirrored and rotated by 270 degrees",
)
_MIRRORED = 4  # first of the mirrored ones

# Correlation from which two thumbnails are nearly equal without alignment.
UNALIGNED_CORRELATION = 0.98
# Two images are near-duplicates if after alignment the correlation of detail finer than a sixteenth of a side reaches
# this. In the Kaggle set, copies have .982 and more, and adjacent slices .976 and less.
DUPLICATE_DETAIL = 0.98
_UNDECIDED_DETAIL = 0.95  # from this, the alignment is tried in the other direction too
DUPLICATE_CORRELATION = 0.95  # of the whole aligned images; low enough for a changed gamma
# Correlation without alignment, and of detail, from which two slices count as of one patient: correct for 393 of 393
# pairs with known patients in the Kaggle set.
LOOK_ALIKE = 0.95
_LOOK_ALIKE_DETAIL = 0.8

# Candidates for each image and kind of thumbnail: number of nearest neighbours, and smallest correlation. A crop by a
# tenth may leave a correlation of only .4; in other orientations unrelated images reach that too.
_UPRIGHT, _REORIENTED = (4, 0.4), (2, 0.9)
_MOST_CANDIDATES = 32  # limit for neighbours that are nearly equal without alignment
_CELLS_SEARCHED = 8
_COARSE = 16  # side of the thumbnails in the search

# Least contrast in grey levels, and least share of pixels with structure. Images with less are similar by chance.
_LEAST_CONTRAST = 2.0
_LEAST_STRUCTURE = 0.02

_PAIRS_AT_ONCE = 96


@dataclasses.dataclass(frozen=True)
class Pairs:
    """Pairs of images, each once and sorted; every field [P].

    Attributes:
      first: number of one image.
      second: number of the other; the larger one if both are of one set.
      orientation: index in `ORIENTATIONS`.
      correlation: of the thumbnails without alignment, the larger of whole frame and head.
      aligned: correlation of the overlap in the deciding comparison, with or without alignment.
      detail: correlation of fine detail in that comparison.
      is_duplicate: whether they show the same picture; otherwise they are similar, likely slices of one patient.
    """

    first: np.ndarray
    second: np.ndarray
    orientation: np.ndarray
    correlation: np.ndarray
    aligned: np.ndarray
    detail: np.ndarray
    is_duplicate: np.ndarray

    def __len__(self) -> int:
        return len(self.first)

    def select(self, rows: np.ndarray) -> "Pairs":
        """Returns the pairs given by numbers or by a mask."""
        return Pairs(*(getattr(self, field.name)[rows] for field in dataclasses.fields(self)))

    @property
    def similarity(self) -> np.ndarray:
        """The larger of both correlations: [P] float32."""
        return np.maximum(self.correlation, self.aligned)

    @property
    def kinds(self) -> np.ndarray:
        """`near`, `rotated` or `mirrored` (which may be rotated too): [P] str."""
        turned_kinds = np.where(self.orientation >= _MIRRORED, "mirrored", "rotated")
        return np.where(self.orientation == 0, "near", turned_kinds)


def find_near_duplicates(
    a: np.ndarray, b: np.ndarray | None = None, *, progress: Callable[[int, int], None] = lambda done, total: None
) -> Pairs:
    """Finds near-duplicates and similar slices by thumbnails, which should be distinct (see `pair_equal_values`).

    Args:
      a: thumbnails [N, 2, S, S] uint8, from `fingerprints.make_thumbnails`, S a multiple of 16.
      b: thumbnails [M, 2, S, S] to compare with; None compares `a` with itself.
      progress: called with the number of candidates checked, and the number of all.
    """
    others = a if b is None else b
    proposed = [np.zeros((0, 3), np.int64)]
    for kind in range(2):
        cells = CellIndex(_reduce(others[:, kind]))
        upright = cells.rows if b is None else _reduce(a[:, kind])
        for turn in range(len(ORIENTATIONS)):
            # A reoriented b is found by searching with a in the inverse orientation.
            queries = reorient(upright.reshape(-1, _COARSE, _COARSE), turn, back=True).reshape(len(a), -1)
            count, likeness = _UPRIGHT if turn == 0 else _REORIENTED
            i, j = cells.search(
                queries,
                count=count,
                most=_MOST_CANDIDATES,
                cells=_CELLS_SEARCHED,
                sure=_convert_to_distance(UNALIGNED_CORRELATION),
                itself=b is None,
            )
            near = ((queries[i] - cells.rows[j]) ** 2).sum(1) <= _convert_to_distance(likeness) ** 2
            featureless = ~(queries[i].any(1) & cells.rows[j].any(1))
            kept = near & ~featureless
            proposed.append(np.stack([i[kept], j[kept], np.full(kept.sum(), turn)], 1))
    candidates = np.concatenate(proposed)
    if b is None:
        candidates = _order_pairs(candidates)
    candidates = np.unique(candidates, axis=0)
    blocks = [candidates[start : start + _PAIRS_AT_ONCE] for start in range(0, len(candidates), _PAIRS_AT_ONCE)]
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        checked = []
        for result in pool.map(lambda block: _check_candidates(a, others, block), blocks):
            checked.append(result)
            progress(min(len(checked) * _PAIRS_AT_ONCE, len(candidates)), len(candidates))
    return _choose_orientations(candidates, np.concatenate([*checked, np.zeros((3, 0), np.float32)], axis=1))


def list_near_duplicates(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Lists near-duplicates (i, j) [P, 2] of thumbnails `a` [N, 2, S, S] among `b` [M, 2, S, S], sorted."""
    pairs = find_near_duplicates(a, b)
    return np.stack([pairs.first, pairs.second], 1)[pairs.is_duplicate]


def has_near_duplicate(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Returns which thumbnails `a` [N, 2, S, S] have a near-duplicate among `b` [M, 2, S, S]: [N] bool."""
    found = np.zeros(len(a), bool)
    if len(a) and len(b):
        found[list_near_duplicates(a, b)[:, 0]] = True
    return found


def reorient(thumbnails: np.ndarray, orientation: int, *, back: bool = False) -> np.ndarray:
    """Applies one of the `ORIENTATIONS` to thumbnails [..., S, S], or its inverse (`back`). Returns a view."""
    quarters = orientation % _MIRRORED
    if orientation < _MIRRORED:
        return np.rot90(thumbnails, -quarters if back else quarters, axes=(-2, -1))
    # A mirrored rotation is its own inverse.
    mirrored = thumbnails[..., ::-1]
    return np.rot90(mirrored, quarters, axes=(-2, -1))


def standardise(thumbnails: np.ndarray) -> np.ndarray:
    """Standardises images [N, ...] to rows [N, D] float32 whose products are correlations; 0 without structure."""
    rows = thumbnails.reshape(len(thumbnails), -1).astype(np.float32)
    rows -= rows.mean(1, keepdims=True)
    lengths = np.sqrt(np.einsum("nd,nd->n", rows, rows))[:, None]
    pixels = rows.shape[1]
    enough = lengths >= _LEAST_CONTRAST * math.sqrt(pixels)
    np.divide(rows, lengths, out=rows, where=enough)
    # 1 if all pixels differ equally from the mean; a bright spot of n pixels has about n / pixels.
    squares = rows * rows
    spread = 1 / np.maximum(np.einsum("nd,nd->n", squares, squares) * pixels, 1)[:, None]
    rows[~(enough & (spread >= _LEAST_STRUCTURE))[:, 0]] = 0
    return rows


def find_components(n: int, pairs: Iterable[tuple[int, int]]) -> np.ndarray:
    """Finds connected components; returns the smallest member of each number's component: [n] int64."""
    parent = np.arange(n)

    def find_root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    for i, j in pairs:
        low, high = sorted((find_root(i), find_root(j)))
        parent[high] = low
    return np.array([find_root(i) for i in range(n)], np.int64)


def pair_equal_values(values: Sequence[Hashable]) -> list[tuple[int, int]]:
    """Returns (first, later) for each later occurrence of a value."""
    first: dict[Hashable, int] = {}
    return [(first[value], i) for i, value in enumerate(values) if first.setdefault(value, i) != i]


def _reduce(thumbnails: np.ndarray) -> np.ndarray:
    """Projects standardised thumbnails [N, S, S] to rows [N, 256] float32, which does not increase distances."""
    n, size, _ = thumbnails.shape
    step = size // _COARSE
    rows = np.empty((n, _COARSE * _COARSE), np.float32)
    for start in range(0, n, 1024):
        block = standardise(thumbnails[start : start + 1024])
        squares = block.reshape(len(block), _COARSE, step, _COARSE, step)
        rows[start : start + 1024] = squares.sum((2, 4)).reshape(len(block), -1) / step
    return rows


def _convert_to_distance(correlation: float) -> float:
    """Converts a correlation to the distance between two standardised rows."""
    return math.sqrt(2 * (1 - correlation))


def _order_pairs(candidates: np.ndarray) -> np.ndarray:
    """Orders (i, j, orientation) to i < j; swapping the images inverts the orientation."""
    i, j, turn = candidates.T
    swapped = i > j
    back = np.where(turn < _MIRRORED, -turn % _MIRRORED, turn)
    return np.stack([np.minimum(i, j), np.maximum(i, j), np.where(swapped, back, turn)], 1)


def _check_candidates(a: np.ndarray, b: np.ndarray, block: np.ndarray) -> np.ndarray:
    """Computes correlation, aligned correlation and detail of candidates [P, 3], see `Pairs`: [3, P]."""
    result = np.zeros((3, len(block)), np.float32)
    settled = np.zeros(len(block), bool)

    def settle(rows: np.ndarray, alignment: registration.Alignment) -> None:
        settled[rows] |= (alignment.correlation >= DUPLICATE_CORRELATION) & (alignment.detail >= DUPLICATE_DETAIL)
        better = settled[rows] | (alignment.detail > result[2, rows])
        result[1:, rows[better]] = alignment.correlation[better], alignment.detail[better]

    for kind in range(2):
        first = a[block[:, 0], kind]
        second = np.stack([reorient(b[j, kind], turn) for _, j, turn in block.tolist()])
        products = np.einsum("pd,pd->p", standardise(first), standardise(second))
        np.maximum(result[0], products, out=result[0])
        likely = (products != 0) & ((block[:, 2] == 0) | (products >= _REORIENTED[1]))
        rows = np.flatnonzero((products >= LOOK_ALIKE) & ~settled)
        settle(rows, registration.compare_unaligned(first[rows], second[rows]))
        rows = np.flatnonzero(likely & ~settled)
        settle(rows, registration.align(first[rows], second[rows]))
        # Interpolation blurs the moved image, so that the other direction may agree better.
        rows = np.flatnonzero(likely & ~settled & (result[2] >= _UNDECIDED_DETAIL))
        settle(rows, registration.align(second[rows], first[rows]))
    return result


def _choose_orientations(candidates: np.ndarray, checked: np.ndarray) -> Pairs:
    """Chooses the best orientation of each pair that is a near-duplicate, or similar in the upright orientation."""
    correlation, laid, detail = checked
    i, j, turn = candidates.T
    duplicate = (laid >= DUPLICATE_CORRELATION) & (detail >= DUPLICATE_DETAIL)
    similar = (turn == 0) & (correlation >= LOOK_ALIKE) & (detail >= _LOOK_ALIKE_DETAIL)
    kept = np.flatnonzero(duplicate | similar)
    # A head is nearly its own mirror image, so upright is preferred if it fits.
    order = kept[np.lexsort((-detail[kept], turn[kept] != 0, ~duplicate[kept], j[kept], i[kept]))]
    _, first = np.unique(candidates[order, :2], axis=0, return_index=True)
    rows = order[first]
    return Pairs(i[rows], j[rows], turn[rows], correlation[rows], laid[rows], detail[rows], duplicate[rows])
