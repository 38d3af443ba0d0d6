"""What each image of a run is for: the rows of `split.csv`, made one by one from columns."""

import dataclasses
import hashlib
import itertools
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from bt_jax.data.records import Records


@dataclasses.dataclass(frozen=True, eq=False)
class SplitTable(Collection[list[Any]]):
    """Rows of path, label, group, fold, role, fingerprint: first those of Training, then those of Testing.

    Attributes:
      class_names: in the order of the labels.
      trainable: [N] records of Training.
      groups: [N] names.
      folds: [N] integers.
      roles: [N] texts.
      fingerprints: [N].
      testing: [M] records of Testing.
      testing_fingerprints: [M].
    """

    class_names: Sequence[str]
    trainable: Records
    groups: Sequence[str]
    folds: np.ndarray
    roles: np.ndarray
    fingerprints: Sequence[str]
    testing: Records
    testing_fingerprints: Sequence[str]

    def __len__(self) -> int:
        return len(self.trainable) + len(self.testing)

    def __iter__(self) -> Iterator[list[Any]]:
        # Without a step in Python for each row, of which there may be a million.
        trainable = zip(
            self.trainable.paths,
            self._names(self.trainable),
            self.groups,
            self.folds.tolist(),
            _each(self.roles),
            self.fingerprints,
            strict=True,
        )
        testing = zip(
            self.testing.paths,
            self._names(self.testing),
            itertools.repeat(""),
            itertools.repeat(""),
            itertools.repeat("testing"),
            self.testing_fingerprints,
        )
        return map(list, itertools.chain(trainable, testing))

    def _names(self, records: Records) -> Iterable[str]:
        return map(self.class_names.__getitem__, records.labels.tolist())

    def __contains__(self, row: object) -> bool:
        return any(row == each for each in self)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Collection) and len(self) == len(other) and all(map(list.__eq__, self, other))

    __hash__ = None  # type: ignore[assignment]

    def groups_of(self, paths: Iterable[str]) -> list[str]:
        """The group of each path; empty for those of testing."""
        wanted = dict.fromkeys(paths, "")
        for path, group in zip(self.trainable.paths, self.groups, strict=True):
            if path in wanted:
                wanted[path] = group
        return [wanted[path] for path in paths]

    @property
    def sha256(self) -> str:
        """Of all rows: which images, by their pixels, and what each is for."""
        digest = hashlib.sha256()
        rows, between = iter(self), b""
        while lines := ["\t".join(map(str, row)) for row in itertools.islice(rows, 4096)]:
            digest.update(between + "\n".join(lines).encode())
            between = b"\n"
        return digest.hexdigest()


def _each(texts: np.ndarray) -> Iterable[str]:
    """The texts one by one, equal ones being the same object."""
    names, numbers = np.unique(texts, return_inverse=True)
    return map(names.tolist().__getitem__, numbers.tolist())
