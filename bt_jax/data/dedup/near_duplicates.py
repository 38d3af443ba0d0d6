"""Twins among images: which show the same picture, copied, resized, recompressed, cropped, turned or mirrored.

A search by coarse likeness proposes pairs, and laying one picture over the other confirms them (see `registration`).
Every image costs the same few comparisons, however many there are. Nothing here knows of labels or patients.
"""

import concurrent.futures
import dataclasses
import math
import os
from collections.abc import Callable, Hashable, Iterable, Sequence

import numpy as np

from bt_jax.data.dedup import registration
from bt_jax.data.dedup.neighbours import CellIndex

# How the second picture of a pair has to be turned to become the first.
ORIENTATIONS = (
    "upright",
    "turned by 90 degrees",
    "turned by 180 degrees",
    "turned by 270 degrees",
    "mirrored",
    "mirrored and turned by 90 degrees",
    "mirrored and turned by 180 degrees",
    "mirrored and turned by 270 degrees",
)
_MIRRORED = 4  # first of the mirrored ones

# Correlation from which two thumbnails are nearly equal as they lie.
UNALIGNED_CORRELATION = 0.98
# Two pictures are twins if so much of what is finer than a sixteenth of a side agrees, one laid on the other. Of all
# pairs in the Kaggle set the copies have .982 and more, slices that lie beside each other .976 and less.
DUPLICATE_DETAIL = 0.98
_UNDECIDED_DETAIL = 0.95  # is worth a second look
DUPLICATE_CORRELATION = 0.95  # and of the whole; low enough for a changed gamma
# Correlation as they lie, and agreement of details, from which two slices are of one patient: 393 of 393 pairs whose
# patients are known in the Kaggle set.
LOOK_ALIKE = 0.95
_LOOK_ALIKE_DETAIL = 0.8

# What the search proposes for each image in each kind of thumbnail: how many of the nearest ones, and what correlation
# they have at least. A crop by a tenth may leave no more than .4; in other orientations strangers are as near as that.
_UPRIGHT, _TURNED = (4, 0.4), (2, 0.9)
_MOST_CANDIDATES = 32  # all that are nearly equal as they lie, so far
_CELLS_SEARCHED = 8
_COARSE = 16  # side of the thumbnails that are searched

# A thumbnail is told apart by its structure alone. Without any, in grey levels and in the share of the pixels that
# hold it, two pictures are alike by chance.
_LEAST_CONTRAST = 2.0
_LEAST_STRUCTURE = 0.02

_PAIRS_AT_ONCE = 96


@dataclasses.dataclass(frozen=True)
class Pairs:
    """Pairs of images, each once and in order; every field [P].

    Attributes:
      first: number of one image.
      second: number of the other; where both are of one set it is the larger.
      orientation: index in `ORIENTATIONS`.
      correlation: of the thumbnails as they lie, whole frame or head alone, whichever is larger.
      aligned: of what overlaps, as they lie or moved over each other, in the comparison that decided.
      detail: agreement of the fine parts, laid on each other where needed.
      is_duplicate: they show the same picture; else they are look-alikes, which are likely slices of one patient.
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
        """The pairs given by number or by a mask."""
        return Pairs(*(getattr(self, field.name)[rows] for field in dataclasses.fields(self)))

    @property
    def similarity(self) -> np.ndarray:
        """The larger of the correlations: [P] float32."""
        return np.maximum(self.correlation, self.aligned)

    @property
    def kinds(self) -> np.ndarray:
        """`near`, `rotated` or `mirrored` (which may be turned as well): [P] str."""
        turned_kinds = np.where(self.orientation >= _MIRRORED, "mirrored", "rotated")
        return np.where(self.orientation == 0, "near", turned_kinds)


def find_near_duplicates(
    a: np.ndarray, b: np.ndarray | None = None, *, progress: Callable[[int, int], None] = lambda done, total: None
) -> Pairs:
    """Twins and look-alikes by their thumbnails, of which no two should be equal (see `pair_equal_values`).

    Args:
      a: thumbnails [N, 2, S, S] uint8, as `fingerprints.thumbnails` makes them, S a multiple of 16.
      b: [M, 2, S, S] to compare with; None compares `a` with itself.
      progress: called with the number of candidates checked and of all.
    """
    others = a if b is None else b
    proposed = [np.zeros((0, 3), np.int64)]
    for kind in range(2):
        cells = CellIndex(_reduce(others[:, kind]))
        upright = cells.rows if b is None else _reduce(a[:, kind])
        for turn in range(len(ORIENTATIONS)):
            # To look for b turned is to look for b with a turned back.
            queries = reorient(upright.reshape(-1, _COARSE, _COARSE), turn, back=True).reshape(len(a), -1)
            count, likeness = _UPRIGHT if turn == 0 else _TURNED
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
    """Twins (i, j) [P, 2] of thumbnails `a` [N, 2, S, S] among `b` [M, 2, S, S], sorted."""
    pairs = find_near_duplicates(a, b)
    return np.stack([pairs.first, pairs.second], 1)[pairs.is_duplicate]


def has_near_duplicate(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Which of the thumbnails `a` [N, 2, S, S] have a twin among `b` [M, 2, S, S]: [N] bool."""
    found = np.zeros(len(a), bool)
    if len(a) and len(b):
        found[list_near_duplicates(a, b)[:, 0]] = True
    return found


def reorient(thumbnails: np.ndarray, orientation: int, *, back: bool = False) -> np.ndarray:
    """Thumbnails [..., S, S] as `ORIENTATIONS` says; `back` undoes it. A view of the same memory."""
    quarters = orientation % _MIRRORED
    if orientation < _MIRRORED:
        return np.rot90(thumbnails, -quarters if back else quarters, axes=(-2, -1))
    # A mirror undoes itself, before as after a turn in the other direction.
    mirrored = thumbnails[..., ::-1]
    return np.rot90(mirrored, quarters, axes=(-2, -1))


def standardise(thumbnails: np.ndarray) -> np.ndarray:
    """Copies [N, ...] as rows [N, D] float32 whose products are correlations; those without structure become 0."""
    rows = thumbnails.reshape(len(thumbnails), -1).astype(np.float32)
    rows -= rows.mean(1, keepdims=True)
    lengths = np.sqrt(np.einsum("nd,nd->n", rows, rows))[:, None]
    pixels = rows.shape[1]
    enough = lengths >= _LEAST_CONTRAST * math.sqrt(pixels)
    np.divide(rows, lengths, out=rows, where=enough)
    # 1 if all pixels differ from the mean alike; a bright spot of n pixels has about n / pixels.
    squares = rows * rows
    spread = 1 / np.maximum(np.einsum("nd,nd->n", squares, squares) * pixels, 1)[:, None]
    rows[~(enough & (spread >= _LEAST_STRUCTURE))[:, 0]] = 0
    return rows


def find_components(n: int, pairs: Iterable[tuple[int, int]]) -> np.ndarray:
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


def pair_equal_values(values: Sequence[Hashable]) -> list[tuple[int, int]]:
    """(first, later) for each later occurrence of a value."""
    first: dict[Hashable, int] = {}
    return [(first[value], i) for i, value in enumerate(values) if first.setdefault(value, i) != i]


def _reduce(thumbnails: np.ndarray) -> np.ndarray:
    """Rows [N, 256] float32 no farther apart than the standardised thumbnails [N, S, S] are: a projection of these."""
    n, size, _ = thumbnails.shape
    step = size // _COARSE
    rows = np.empty((n, _COARSE * _COARSE), np.float32)
    for start in range(0, n, 1024):
        block = standardise(thumbnails[start : start + 1024])
        squares = block.reshape(len(block), _COARSE, step, _COARSE, step)
        rows[start : start + 1024] = squares.sum((2, 4)).reshape(len(block), -1) / step
    return rows


def _convert_to_distance(correlation: float) -> float:
    """Between two standardised rows."""
    return math.sqrt(2 * (1 - correlation))


def _order_pairs(candidates: np.ndarray) -> np.ndarray:
    """(i, j, turn) with i < j: what is turned one way seen from one side is turned back seen from the other."""
    i, j, turn = candidates.T
    swapped = i > j
    back = np.where(turn < _MIRRORED, -turn % _MIRRORED, turn)
    return np.stack([np.minimum(i, j), np.maximum(i, j), np.where(swapped, back, turn)], 1)


def _check_candidates(a: np.ndarray, b: np.ndarray, block: np.ndarray) -> np.ndarray:
    """What `Pairs` holds of candidates [P, 3]: correlation as they lie, laid on each other, and of details: [3, P]."""
    result = np.zeros((3, len(block)), np.float32)
    settled = np.zeros(len(block), bool)

    def settle(rows: np.ndarray, agreement: registration.Alignment) -> None:
        settled[rows] |= (agreement.correlation >= DUPLICATE_CORRELATION) & (agreement.detail >= DUPLICATE_DETAIL)
        better = settled[rows] | (agreement.detail > result[2, rows])
        result[1:, rows[better]] = agreement.correlation[better], agreement.detail[better]

    for kind in range(2):
        first = a[block[:, 0], kind]
        second = np.stack([reorient(b[j, kind], turn) for _, j, turn in block.tolist()])
        products = np.einsum("pd,pd->p", standardise(first), standardise(second))
        np.maximum(result[0], products, out=result[0])
        likely = (products != 0) & ((block[:, 2] == 0) | (products >= _TURNED[1]))
        rows = np.flatnonzero((products >= LOOK_ALIKE) & ~settled)
        settle(rows, registration.compare_unaligned(first[rows], second[rows]))
        rows = np.flatnonzero(likely & ~settled)
        settle(rows, registration.align(first[rows], second[rows]))
        # Interpolation blurs the picture that is moved: the other way round may tell more.
        rows = np.flatnonzero(likely & ~settled & (result[2] >= _UNDECIDED_DETAIL))
        settle(rows, registration.align(second[rows], first[rows]))
    return result


def _choose_orientations(candidates: np.ndarray, checked: np.ndarray) -> Pairs:
    """Of each pair of images the orientation that agrees best, if they are twins or look alike upright."""
    correlation, laid, detail = checked
    i, j, turn = candidates.T
    twin = (laid >= DUPLICATE_CORRELATION) & (detail >= DUPLICATE_DETAIL)
    alike = (turn == 0) & (correlation >= LOOK_ALIKE) & (detail >= _LOOK_ALIKE_DETAIL)
    kept = np.flatnonzero(twin | alike)
    # A head is nearly its own mirror image: upright counts where it fits.
    order = kept[np.lexsort((-detail[kept], turn[kept] != 0, ~twin[kept], j[kept], i[kept]))]
    _, first = np.unique(candidates[order, :2], axis=0, return_index=True)
    rows = order[first]
    return Pairs(i[rows], j[rows], turn[rows], correlation[rows], laid[rows], detail[rows], twin[rows])
