"""The findings of an audit: duplicates, leaks, contradictory labels, patients, unusual files and shortcuts."""

import collections
import dataclasses
import itertools
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from bt_jax.audit.inspection import ODDITIES, Inspection
from bt_jax.audit.shortcuts import Shortcuts, find_shortcuts
from bt_jax.common import waiting
from bt_jax.data import splits
from bt_jax.data.dedup import near_duplicates
from bt_jax.data.dedup.near_duplicates import UNALIGNED_CORRELATION, Pairs
from bt_jax.data.sources import Source

KINDS = ("exact", "near", "mirrored", "rotated")
_MOST_PAIRS = 200  # listed between two sets of identical images; larger sets are paired with one image a split only
_CLOSE_CALLS = 60


@dataclasses.dataclass(frozen=True)
class DuplicatePair:
    """Two images that show the same picture: rows of the inspection, `first` before `second`, kind and similarity."""

    first: int
    second: int
    kind: str
    similarity: float


@dataclasses.dataclass(frozen=True)
class Findings:
    """All findings; images are identified by their rows in the inspection.

    Attributes:
      source: the audited source.
      inspection: its files.
      pairs: the listed duplicates, in order.
      clusters: rows of images that show the same picture, directly or through other images; the largest cluster first.
      leak_kind: for each Testing image with a duplicate in Training, the kind of its closest duplicate.
      close_calls: pairs across the splits, or with different labels, that look alike but are not duplicates.
      groups: patient or other group of each image [N].
      grouping: where the groups come from, for reports.
      shortcuts: the shortcuts, or the reason why they could not be measured.
    """

    source: Source
    inspection: Inspection
    pairs: tuple[DuplicatePair, ...]
    clusters: tuple[tuple[int, ...], ...]
    leak_kind: dict[int, str]
    close_calls: tuple[DuplicatePair, ...]
    groups: tuple[str, ...]
    grouping: str
    shortcuts: Shortcuts | str

    def get_label(self, row: int) -> str:
        """Returns the class of an image."""
        return self.source.class_names[self.inspection.records[row].label]

    def get_split(self, row: int) -> str:
        """Returns `Training` or `Testing`."""
        return self.inspection.records[row].split

    def list_rows(self, split: str) -> list[int]:
        """Returns the images of a split."""
        return [row for row, record in enumerate(self.inspection.records) if record.split == split]

    def is_across_splits(self, pair: DuplicatePair) -> bool:
        """Returns whether the images of a pair are in different splits."""
        return self.get_split(pair.first) != self.get_split(pair.second)

    @property
    def contradictions(self) -> list[DuplicatePair]:
        """The listed pairs whose labels differ."""
        return [pair for pair in self.pairs if self.get_label(pair.first) != self.get_label(pair.second)]

    @property
    def same_group(self) -> list[int]:
        """The Testing images without a duplicate in Training that share a patient or group with a Training image."""
        training = {self.groups[row] for row in self.list_rows("Training")}
        return [row for row in self.list_rows("Testing") if row not in self.leak_kind and self.groups[row] in training]

    def count_pairs(self, *, across: bool) -> dict[str, int]:
        """Counts the listed pairs by kind."""
        counts = collections.Counter(pair.kind for pair in self.pairs if self.is_across_splits(pair) == across)
        return {kind: counts[kind] for kind in KINDS}

    def list_oddities(self) -> dict[str, list[int]]:
        """Returns the unusual images by kind."""
        found = {
            kind: [row for row, kinds in enumerate(self.inspection.oddities) if kind in kinds] for kind in ODDITIES
        }
        return {kind: rows for kind, rows in found.items() if rows}


def examine(
    source: Source, inspection: Inspection, *, progress: Callable[[int, int], None] = lambda done, total: None
) -> Findings:
    """Examines an inspected source. Duplicates are found from pixels alone, without labels or patients.

    Args:
      source: the images.
      inspection: the result of `inspection.inspect`.
      progress: called with the number of candidate pairs compared, and the number of all.
    """
    copies: dict[str, list[int]] = {}
    for row, fingerprint in enumerate(inspection.fingerprints):
        copies.setdefault(fingerprint, []).append(row)
    sets = list(copies.values())
    found = near_duplicates.find_near_duplicates(inspection.thumbnails[[rows[0] for rows in sets]], progress=progress)
    split_of = [record.split for record in inspection.records]
    listing = _Listing(sets, found, split_of)
    similar = [
        (sets[i][0], sets[j][0]) for i, j in zip(found.first.tolist(), found.second.tolist(), strict=True)
    ]  # fmt: skip
    groups, grouping = splits.group_images(
        paths=[record.path for record in inspection.records],
        fingerprints=inspection.fingerprints,
        thumbnails=inspection.thumbnails,
        table=source.groups,
        similar=similar,
    )
    training = [row for row, split in enumerate(split_of) if split == "Training"]
    labels = np.array([record.label for record in inspection.records], np.int64)
    with waiting.report("looking for shortcuts"):
        shortcuts = find_shortcuts(
            inspection.cues[training],
            labels=labels[training],
            groups=[groups[row] for row in training],
            class_names=source.class_names,
        )
    return Findings(
        source=source,
        inspection=inspection,
        pairs=tuple(listing.list_pairs()),
        clusters=tuple(listing.list_clusters()),
        leak_kind=listing.classify_leaks(),
        close_calls=tuple(listing.list_close_calls(labels)),
        groups=tuple(groups),
        grouping=grouping,
        shortcuts=shortcuts,
    )


class _Listing:
    """Turns sets of pixel-identical images, and pairs of such sets, into pairs of images.

    Exact duplicates, and near-duplicates that match without alignment, are listed in full. A pair that needs a
    rotation, a mirror or an alignment is listed if it connects images that no other pair connects, or if an image would
    otherwise be listed without its duplicate in the other split. All other pairs follow from the listed ones.
    """

    def __init__(self, sets: Sequence[Sequence[int]], found: Pairs, split_of: Sequence[str]):
        self.sets = sets
        self.split_of = split_of
        self.duplicates = found.select(found.is_duplicate)
        self.others = found.select(~found.is_duplicate)
        self.kinds = self.duplicates.kinds.tolist()
        self.similarity = _round(self.duplicates.similarity)
        unaligned = (self.duplicates.orientation == 0) & (self.duplicates.correlation >= UNALIGNED_CORRELATION)
        self.unaligned, self.aligned = np.flatnonzero(unaligned).tolist(), np.flatnonzero(~unaligned).tolist()

    def list_pairs(self) -> list[DuplicatePair]:
        exact = [_order_pair(*pair, "exact", 1.0) for rows in self.sets for pair in self._list_within(rows)]
        near = [pair for k in self.unaligned for pair in self._list_between(k)]
        listed = exact + near
        parent = near_duplicates.find_components(
            len(self.split_of), [(pair.first, pair.second) for pair in listed]
        ).tolist()
        joined = dict(enumerate(parent))

        def find_root(row: int) -> int:
            while joined[row] != row:
                row = joined[row]
            return row

        rest = [self._pick_pair(k) for k in self.aligned]
        rest.sort(key=lambda pair: (self._is_across(pair), -pair.similarity, pair.first, pair.second))
        for pair in rest:
            low, high = sorted((find_root(pair.first), find_root(pair.second)))
            if low != high:
                joined[high] = low
                listed.append(pair)
        with_duplicate = {row for pair in listed if self._is_across(pair) for row in (pair.first, pair.second)}
        aligned = [pair for k in self.aligned for pair in self._list_between(k)]
        for pair in sorted(aligned, key=lambda pair: (-pair.similarity, pair.first, pair.second)):
            if self._is_across(pair) and not {pair.first, pair.second} <= with_duplicate:
                listed.append(pair)
                with_duplicate |= {pair.first, pair.second}
        unique = {(pair.first, pair.second): pair for pair in listed}
        return sorted(unique.values(), key=lambda pair: (pair.first, pair.second))

    def list_clusters(self) -> list[tuple[int, ...]]:
        edges = [(rows[0], row) for rows in self.sets for row in rows[1:]]
        edges += [(self.sets[i][0], self.sets[j][0]) for i, j in self._list_numbers(self.duplicates)]
        members: dict[int, list[int]] = {}
        for row, root in enumerate(near_duplicates.find_components(len(self.split_of), edges).tolist()):
            members.setdefault(root, []).append(row)
        found = [tuple(rows) for rows in members.values() if len(rows) > 1]
        return sorted(found, key=lambda rows: (-len(rows), rows))

    def classify_leaks(self) -> dict[int, str]:
        kinds: dict[int, str] = {}
        duplicate_sets: list[tuple[Sequence[int], Sequence[int], str]] = [(rows, rows, "exact") for rows in self.sets]
        for (i, j), kind in zip(self._list_numbers(self.duplicates), self.kinds, strict=True):
            duplicate_sets += [(self.sets[i], self.sets[j], kind), (self.sets[j], self.sets[i], kind)]
        for kind in KINDS:
            for rows, others, its_kind in duplicate_sets:
                if its_kind == kind and any(self.split_of[row] == "Training" for row in others):
                    for row in rows:
                        if self.split_of[row] == "Testing":
                            kinds.setdefault(row, kind)
        return dict(sorted(kinds.items()))

    def list_close_calls(self, labels: np.ndarray) -> list[DuplicatePair]:
        calls = []
        similarity = _round(self.others.similarity)
        for k, (i, j) in enumerate(self._list_numbers(self.others)):
            first, second = self._pick_rows(self.sets[i], self.sets[j], across=True)
            if self.split_of[first] != self.split_of[second] or labels[first] != labels[second]:
                calls.append((float(self.others.detail[k]), _order_pair(first, second, "similar", similarity[k])))
        calls.sort(key=lambda call: (-call[0], call[1].first, call[1].second))
        return [call for _, call in calls[:_CLOSE_CALLS]]

    def _pick_pair(self, k: int) -> DuplicatePair:
        """Returns one pair of images for a pair of sets, within a split if possible."""
        i, j = int(self.duplicates.first[k]), int(self.duplicates.second[k])
        return self._make_pair(k, *self._pick_rows(self.sets[i], self.sets[j], across=False))

    def _pick_rows(self, rows: Sequence[int], others: Sequence[int], *, across: bool) -> tuple[int, int]:
        ways = itertools.product(self._list_first_of_splits(rows), self._list_first_of_splits(others))
        return min(ways, key=lambda way: (self.split_of[way[0]] == self.split_of[way[1]]) == across)

    def _list_between(self, k: int) -> Iterable[DuplicatePair]:
        """Returns the pairs of images for a pair of sets."""
        a, b = self.sets[int(self.duplicates.first[k])], self.sets[int(self.duplicates.second[k])]
        if len(a) * len(b) <= _MOST_PAIRS:
            ways = set(itertools.product(a, b))
        else:
            ways = {
                *itertools.product(self._list_first_of_splits(a), b),
                *itertools.product(a, self._list_first_of_splits(b)),
            }
        return [self._make_pair(k, row, other) for row, other in sorted(ways)]

    def _list_within(self, rows: Sequence[int]) -> Iterable[tuple[int, int]]:
        if len(rows) * (len(rows) - 1) // 2 <= _MOST_PAIRS:
            return itertools.combinations(rows, 2)
        return sorted({(min(a, b), max(a, b)) for a in self._list_first_of_splits(rows) for b in rows if a != b})

    def _make_pair(self, k: int, row: int, other: int) -> DuplicatePair:
        return _order_pair(row, other, self.kinds[k], self.similarity[k])

    def _list_first_of_splits(self, rows: Sequence[int]) -> list[int]:
        first: dict[str, int] = {}
        for row in rows:
            first.setdefault(self.split_of[row], row)
        return list(first.values())

    def _is_across(self, pair: DuplicatePair) -> bool:
        return self.split_of[pair.first] != self.split_of[pair.second]

    def _list_numbers(self, pairs: Pairs) -> list[tuple[int, int]]:
        return list(zip(pairs.first.tolist(), pairs.second.tolist(), strict=True))


def _order_pair(row: int, other: int, kind: str, similarity: float) -> DuplicatePair:
    return DuplicatePair(min(row, other), max(row, other), kind, similarity)


def _round(similarity: np.ndarray) -> list[float]:
    return [round(min(1.0, value), 4) for value in similarity.astype(float).tolist()]
