"""The rows of `split.csv`, which say what each image of a run is used for. Stored as columns for a million images."""

import dataclasses
import hashlib
import itertools
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from bt_jax.common import files
from bt_jax.data.records import Records, StringArray

FIELDS = ("path", "label", "group", "fold", "role", "fingerprint")
_CHUNK = 1 << 15
_SPECIAL = np.isin(np.arange(256), list(b'",\r\n'))  # bytes that CSV needs quotes for


@dataclasses.dataclass(frozen=True, eq=False)
class SplitTable(Collection[list[Any]]):
    """Rows with the `FIELDS`: first the Training images, then the Testing images.

    Attributes:
      class_names: in label order.
      trainable: [N] records of Training.
      groups: [N] names.
      folds: [N] integers, or empty strings without folds.
      roles: [N] strings.
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
        trainable = zip(
            self.trainable.paths,
            self._list_names(self.trainable),
            self.groups,
            self.folds.tolist(),
            _intern(self.roles),
            self.fingerprints,
            strict=True,
        )
        testing = zip(
            self.testing.paths,
            self._list_names(self.testing),
            itertools.repeat(""),
            itertools.repeat(""),
            itertools.repeat("testing"),
            self.testing_fingerprints,
        )
        return map(list, itertools.chain(trainable, testing))

    def _list_names(self, records: Records) -> Iterable[str]:
        return map(self.class_names.__getitem__, records.labels.tolist())

    def __contains__(self, row: object) -> bool:
        return any(row == each for each in self)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Collection) and len(self) == len(other) and all(map(list.__eq__, self, other))

    __hash__ = None  # type: ignore[assignment]

    def look_up_groups(self, paths: Iterable[str]) -> list[str]:
        """Returns the group of each path; empty for Testing images."""
        wanted = dict.fromkeys(paths, "")
        for path, group in zip(self.trainable.paths, self.groups, strict=True):
            if path in wanted:
                wanted[path] = group
        return [wanted[path] for path in paths]

    @property
    def sha256(self) -> str:
        """The hash of all rows: it identifies the images by their pixels, and what each is used for."""
        digest, between = hashlib.sha256(), b""
        for columns in self._iterate_chunks():
            digest.update(between + _join_lines(columns, separator=b"\t")[:-1])
            between = b"\n"
        return digest.hexdigest()

    def to_csv(self) -> bytes:
        """Returns the content of `split.csv`."""
        parts = [files.format_csv(FIELDS, ()).encode()]
        for columns in self._iterate_chunks():
            if any(_SPECIAL[column.view(np.uint8)].any() for column in columns):
                first, *others = zip(*(StringArray(column) for column in columns), strict=True)
                parts.append(files.format_csv(first, others).encode())
            else:
                parts.append(_join_lines(columns, separator=b","))
        return b"".join(parts)

    def _iterate_chunks(self) -> Iterator[list[np.ndarray]]:
        """Yields blocks of rows: one column of bytes for each field."""
        folds, roles = (np.asarray(column).astype("S") for column in (self.folds, self.roles))
        for start in range(0, len(self.trainable), _CHUNK):
            part = slice(start, start + _CHUNK)
            columns = (self.trainable.paths[part], self._name_classes(self.trainable.labels[part]), self.groups[part])
            yield [*map(_encode, columns), folds[part], roles[part], _encode(self.fingerprints[part])]
        for start in range(0, len(self.testing), _CHUNK):
            part = slice(start, start + _CHUNK)
            paths, labels = self.testing.paths[part], self._name_classes(self.testing.labels[part])
            nothing, role = np.zeros(len(paths), "S1"), np.repeat(b"testing", len(paths))
            fingerprints = _encode(self.testing_fingerprints[part])
            yield [_encode(paths), _encode(labels), nothing, nothing, role, fingerprints]

    def _name_classes(self, labels: np.ndarray) -> StringArray:
        return StringArray(_encode(self.class_names)[labels])


def _encode(texts: Sequence[str]) -> np.ndarray:
    """Returns strings as an array of bytes."""
    return np.ascontiguousarray((texts if isinstance(texts, StringArray) else StringArray.from_strings(texts)).encoded)


def _join_lines(columns: Sequence[np.ndarray], *, separator: bytes) -> bytes:
    """Joins columns of bytes to lines. The NUL bytes that pad strings in arrays are left out."""
    count = len(columns[0])
    letters = list[np.ndarray]()
    for column, after in zip(columns, [separator] * (len(columns) - 1) + [b"\n"], strict=True):
        letters += [column.view(np.uint8).reshape(count, -1), np.full((count, 1), after[0], np.uint8)]
    joined = np.concatenate(letters, axis=1)  # [rows, letters of the longest]
    return joined[joined != 0].tobytes()


def _intern(texts: np.ndarray) -> Iterable[str]:
    """Yields strings; equal ones are the same object, which saves memory."""
    names, numbers = np.unique(texts, return_inverse=True)
    return map(names.tolist().__getitem__, numbers.tolist())
