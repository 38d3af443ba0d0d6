"""Records of labelled image files, as objects and as columns, which take about a hundred bytes an image."""

import dataclasses
import pathlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import overload

import numpy as np

from bt_jax.data import class_labels

TRAINING, TESTING = "Training", "Testing"
_CHUNK = 4096  # strings that are decoded at once


@dataclasses.dataclass(frozen=True)
class Record:
    """An image file: path relative to the data folder, with forward slashes; class number; `Training` or `Testing`."""

    path: str
    label: int
    split: str


class StringArray(Sequence[str]):
    """Strings of about equal length in one array, which may be mapped from a file."""

    def __init__(self, texts: np.ndarray):
        self.encoded = texts  # [N] bytes, UTF-8

    @classmethod
    def from_strings(cls, texts: Iterable[str]) -> "StringArray":
        """Copies strings, which must not end with NUL."""
        encoded = [text.encode() for text in texts]
        return cls(np.array(encoded, f"S{max(map(len, encoded), default=1) or 1}"))

    def __len__(self) -> int:
        return len(self.encoded)

    @overload
    def __getitem__(self, row: int) -> str: ...
    @overload
    def __getitem__(self, row: "slice | np.ndarray") -> "StringArray": ...
    def __getitem__(self, row: "int | slice | np.ndarray") -> "str | StringArray":
        if isinstance(row, slice | np.ndarray):
            return StringArray(self.encoded[row])
        return bytes(self.encoded[row]).decode()

    def __iter__(self) -> Iterator[str]:
        for start in range(0, len(self), _CHUNK):
            chunk = self.encoded[start : start + _CHUNK]
            try:
                yield from chunk.astype(str).tolist()
            except UnicodeDecodeError:  # not only ASCII
                yield from (text.decode() for text in chunk.tolist())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and len(self) == len(other) and all(map(str.__eq__, self, other))

    __hash__ = None  # type: ignore[assignment]

    def find(self, text: str) -> int | None:
        """Returns the row of a string in a sorted array; None if it is absent."""
        row = int(np.searchsorted(self.encoded, np.bytes_(text.encode())))
        return row if row < len(self) and self[row] == text else None


@dataclasses.dataclass(frozen=True, eq=False)
class Records(Sequence[Record]):
    """Records as columns.

    Attributes:
      paths: [N].
      labels: [N] int32.
      training: [N] bool.
    """

    paths: StringArray
    labels: np.ndarray
    training: np.ndarray

    @classmethod
    def from_rows(cls, records: Iterable[Record]) -> "Records":
        """Converts records to columns."""
        rows = list(records)
        return cls(
            StringArray.from_strings(record.path for record in rows),
            np.array([record.label for record in rows], np.int32),
            np.array([record.split == TRAINING for record in rows], bool),
        )

    def __len__(self) -> int:
        return len(self.labels)

    @overload
    def __getitem__(self, row: int) -> Record: ...
    @overload
    def __getitem__(self, row: "slice | np.ndarray") -> "Records": ...
    def __getitem__(self, row: "int | slice | np.ndarray") -> "Record | Records":
        if isinstance(row, slice | np.ndarray):
            return Records(self.paths[row], self.labels[row], self.training[row])
        return Record(self.paths[row], int(self.labels[row]), TRAINING if self.training[row] else TESTING)

    def __iter__(self) -> Iterator[Record]:
        for path, label, training in zip(self.paths, self.labels.tolist(), self.training.tolist(), strict=True):
            yield Record(path, label, TRAINING if training else TESTING)

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Sequence)
            and len(self) == len(other)
            and all(a == b for a, b in zip(self, other, strict=True))
        )

    __hash__ = None  # type: ignore[assignment]

    def mask_split(self, split: str) -> np.ndarray:
        """Returns which rows belong to `Training` or `Testing`: [N] bool."""
        return self.training == (split == TRAINING)


@dataclasses.dataclass(frozen=True)
class Index:
    """What a source knows of all its images without reading them. All of them are readable.

    Attributes:
      records: sorted by path.
      groups: [N] int32, numbers of the groups that a split keeps together; -1 for images without a group.
      group_names: by group number.
      patients: [N] int32, numbers of the patients; -1 if unknown.
      patient_names: by patient number.
      fingerprints: [N], of the decoded pixels, see `fingerprints.fingerprint`.
      sizes: [N, 2] int32, width and height of the decoded images.
      thumbnails: [N, 2, S, S] uint8, see `fingerprints.make_thumbnails`; [0, 2, S, S] if they are not kept.
      grouping: where the groups come from, for reports.
    """

    records: Records
    groups: np.ndarray
    group_names: StringArray
    patients: np.ndarray
    patient_names: StringArray
    fingerprints: StringArray
    sizes: np.ndarray
    thumbnails: np.ndarray
    grouping: str

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, rows: np.ndarray) -> "Index":
        return dataclasses.replace(
            self,
            records=self.records[rows],
            groups=self.groups[rows],
            patients=self.patients[rows],
            fingerprints=self.fingerprints[rows],
            sizes=self.sizes[rows],
            thumbnails=self.thumbnails[rows] if len(self.thumbnails) else self.thumbnails,
        )

    @property
    def patient_keys(self) -> list[str]:
        """The key of each image's patient, empty if unknown."""
        names = [*self.patient_names, ""]  # at index -1
        return [names[number] for number in self.patients.tolist()]

    @property
    def group_ranks(self) -> np.ndarray:
        """Group numbers in the order of the group names: [N] int64. Each image must have a group."""
        ranks = np.empty(len(self.group_names), np.int64)
        ranks[np.argsort(self.group_names.encoded, kind="stable")] = np.arange(len(ranks))
        return ranks[self.groups]

    def save(self, folder: pathlib.Path) -> None:
        """Writes the columns as `.npy` files, which can be memory-mapped."""
        folder.mkdir(parents=True)
        columns = {
            "paths": self.records.paths.encoded,
            "labels": self.records.labels,
            "training": self.records.training,
            "groups": self.groups,
            "group_names": self.group_names.encoded,
            "patients": self.patients,
            "patient_names": self.patient_names.encoded,
            "fingerprints": self.fingerprints.encoded,
            "sizes": self.sizes,
            "thumbnails": self.thumbnails,
        }
        for name, column in columns.items():
            np.save(folder / f"{name}.npy", column, allow_pickle=False)

    @classmethod
    def load(cls, folder: pathlib.Path, *, grouping: str) -> "Index":
        """Memory-maps what `save` wrote. Raises `OSError` or `ValueError` if it is incomplete."""

        def map_column(name: str) -> np.ndarray:
            return np.load(folder / f"{name}.npy", mmap_mode="r", allow_pickle=False)

        return cls(
            records=Records(StringArray(map_column("paths")), map_column("labels"), map_column("training")),
            groups=map_column("groups"),
            group_names=StringArray(map_column("group_names")),
            patients=map_column("patients"),
            patient_names=StringArray(map_column("patient_names")),
            fingerprints=StringArray(map_column("fingerprints")),
            sizes=map_column("sizes"),
            thumbnails=map_column("thumbnails"),
            grouping=grouping,
        )


@dataclasses.dataclass(frozen=True)
class Source:
    """Labelled files and how to read them.

    Attributes:
      description: what the source is and where it comes from, for reports.
      class_names: in label order.
      records: sorted by path.
      groups: path -> patient or other group, from the data's own `groups.csv`; empty without that file.
      read: path -> content of the file.
      warnings: one line each, to be shown to the user.
      patients: path -> key of the patient, empty if unknown: the column `patient` of `groups.csv`, or without that
        column the groups.
      synthetic: whether the images are phantoms, not medical images.
      divided: whether there are Training and Testing folders; otherwise all images count as Training, and as any split
        that is evaluated.
      index: what is known of the images without reading them, with the rows of `records`; None if nothing is.
    """

    description: str
    class_names: tuple[str, ...]
    records: Sequence[Record]
    groups: Mapping[str, str]
    read: Callable[[str], bytes]
    warnings: tuple[str, ...] = ()
    patients: Mapping[str, str] = dataclasses.field(default_factory=dict)
    synthetic: bool = False
    divided: bool = True
    index: Index | None = None

    def select_split(self, split: str) -> "Source":
        """Returns the records of `Training` or `Testing`; all of them if the source is not divided."""
        if not self.divided:
            return self
        if self.index is not None:
            index = self.index[np.flatnonzero(self.index.records.mask_split(split))]
            return dataclasses.replace(self, records=index.records, index=index)
        return dataclasses.replace(self, records=tuple(record for record in self.records if record.split == split))

    @property
    def notice(self) -> str | None:
        """The notice that every report and figure made from this source must show."""
        return class_labels.SYNTHETIC_NOTICE if self.synthetic else None


def factorize(names: Iterable[str]) -> tuple[np.ndarray, StringArray]:
    """Encodes names as numbers, -1 for empty ones: [N] int32, and the names by number in order of first occurrence."""
    number: dict[str, int] = {"": -1}
    numbers = np.array([number.setdefault(name, len(number) - 1) for name in names], np.int32)
    return numbers, StringArray.from_strings(name for name in number if name)
