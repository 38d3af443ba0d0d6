"""The built-in phantoms as a source of images, drawn on access."""

import dataclasses

import numpy as np

from bt_jax.common.errors import UsageError
from bt_jax.data import class_labels, splits
from bt_jax.data.fingerprints import THUMBNAIL_SIZE
from bt_jax.data.io import decode
from bt_jax.data.phantoms import phantom
from bt_jax.data.records import Index, Record, Records, Source, StringArray


def open_phantoms(*, per_class: tuple[int, int], seed: int) -> Source:
    """Opens the built-in phantoms as a source, with `per_class` images per class in Training and in Testing.

    A source of more than `splits.MAX_COMPARED` phantoms has an index instead of groups. Its fingerprints encode the
    arguments of the drawing function, and its image sizes are unknown.
    """
    if len(per_class) != 2 or min(per_class) < 0:
        raise UsageError(f"config.data.phantoms_per_class is {per_class}: use two numbers, for Training and Testing")
    if seed < 0:
        raise UsageError(f"config.seed is {seed}: use 0 or more")
    plain = Source(
        description=f"built-in phantoms, {per_class[0]} + {per_class[1]} per class, seed {seed}",
        class_names=class_labels.BRAIN_TUMOR_CLASSES,
        records=(),
        groups={},
        read=PhantomReader(training_per_class=per_class[0], seed=seed),
        synthetic=True,
    )
    if sum(per_class) * len(class_labels.BRAIN_TUMOR_CLASSES) > splits.MAX_COMPARED:
        index = _build_index(training_per_class=per_class[0], testing_per_class=per_class[1], seed=seed)
        return dataclasses.replace(plain, records=index.records, index=index)
    entries = phantom.list_entries(training_per_class=per_class[0], testing_per_class=per_class[1])
    patients = {entry.path: entry.patient for entry in entries}
    records = tuple(
        Record(entry.path, class_labels.BRAIN_TUMOR_CLASSES.index(entry.label), entry.path.split("/")[0])
        for entry in entries
    )
    return dataclasses.replace(plain, records=records, groups=patients, patients=patients)


@dataclasses.dataclass(frozen=True)
class PhantomReader:
    """Draws the phantom with a path, and returns it as the bytes of a PNG file."""

    training_per_class: int
    seed: int

    def __call__(self, path: str) -> bytes:
        """Returns the content of the file at a path."""
        split, label, name = path.split("/")
        index = phantom.parse_index(split, name, training_per_class=self.training_per_class)
        return decode.encode_png(phantom.render(index, label=label, seed=self.seed).image)


def _build_index(*, training_per_class: int, testing_per_class: int, seed: int) -> Index:
    """Builds the rows of `phantom.list_entries` as columns."""
    paths, kinds, places = [], [], []
    for split, count in (("Testing", testing_per_class), ("Training", training_per_class)):
        first = phantom.get_first_index(split, training_per_class=training_per_class)
        for kind, label in enumerate(class_labels.BRAIN_TUMOR_CLASSES):
            paths.append(_format_paths(split, label, count))
            kinds.append(np.full(count, kind, np.int32))
            places.append(first + np.arange(count, dtype=np.int64))
    numbers, indices = np.concatenate(kinds), np.concatenate(places)  # [N] class numbers, and indices to draw from
    training = np.arange(len(numbers)) >= testing_per_class * len(class_labels.BRAIN_TUMOR_CLASSES)
    of_class = int(indices.max()) // phantom.SLICES_PER_PATIENT + 1
    patients = (numbers * of_class + indices // phantom.SLICES_PER_PATIENT).astype(np.int32)
    names = StringArray.from_strings(
        phantom.name_patient(label, number * phantom.SLICES_PER_PATIENT)
        for label in class_labels.BRAIN_TUMOR_CLASSES
        for number in range(of_class)
    )
    drawn_from = np.stack([(seed % 2**32 << 8) + numbers.astype(np.int64), indices], axis=1)  # [N, 2]
    digits = drawn_from.astype(">u8").tobytes().hex().encode()
    return Index(
        records=Records(StringArray(np.concatenate(paths)), numbers, training),
        groups=np.where(training, patients, -1).astype(np.int32),
        group_names=names,
        patients=patients,
        patient_names=names,
        fingerprints=StringArray(np.frombuffer(digits, "S32")),
        sizes=np.zeros((len(numbers), 2), np.int32),
        thumbnails=np.zeros((0, 2, THUMBNAIL_SIZE, THUMBNAIL_SIZE), np.uint8),
        grouping=f"{int(training.sum())} images by groups.csv",
    )


def _format_paths(split: str, label: str, count: int) -> np.ndarray:
    """Formats `phantom.format_path` of all numbers below `count`: [count] bytes."""
    if not count:
        return np.zeros(0, "S1")
    first = phantom.format_path(split, label, 0, count=count).encode()
    place = first.rindex(b".")
    letters = np.tile(np.frombuffer(first, np.uint8), (count, 1))  # [count, length of a path]
    left = np.arange(1, count + 1)
    while left.any():
        place -= 1
        letters[:, place] = ord("0") + left % 10
        left //= 10
    return letters.view(f"S{len(first)}")[:, 0]
