"""What each image of a run is for: the rows of `split.csv`, made one by one from columns."""

import dataclasses
import hashlib
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
        yield from self._rows(
            self.trainable, self.groups, self.folds.tolist(), _each(self.roles, len(self.trainable)), self.fingerprints
        )
        none = [""] * len(self.testing)
        yield from self._rows(self.testing, none, none, ["testing"] * len(none), self.testing_fingerprints)

    def _rows(self, records: Records, *columns: Iterable[Any]) -> Iterator[list[Any]]:
        names = self.class_names
        labels = records.labels.tolist()
        for path, label, group, fold, role, print_ in zip(records.paths, labels, *columns, strict=True):
            yield [path, names[label], group, fold, role, print_]

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
        between = b""
        for row in self:
            digest.update(between + "\t".join(map(str, row)).encode())
            between = b"\n"
        return digest.hexdigest()


def _each(texts: np.ndarray, count: int) -> Iterator[str]:
    """The texts one by one, equal ones being the same object."""
    names, numbers = np.unique(texts, return_inverse=True)
    known = names.tolist()
    return (known[number] for number in numbers.tolist()) if count else iter(())
