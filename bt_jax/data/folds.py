"""The images of a run, divided: training, validation by patient, and testing."""

import dataclasses
import hashlib
from collections.abc import Callable
from typing import Any

import numpy as np

from bt_jax.data import manifest, splits
from bt_jax.data.dataset import Dataset, load
from bt_jax.data.preprocess import Preprocessing
from bt_jax.data.sources import Source
from bt_jax.errors import UsageError


@dataclasses.dataclass(frozen=True)
class DividedData:
    """All images of a run.

    Attributes:
      source: where they are from.
      training: what the network learns from.
      validation: whole patients kept apart, to choose by.
      testing: the source's Testing folder, looked at once at the end; may be empty.
      grouping: in words, what says which images belong together.
      table: the rows of `split.csv`: path, label, group, fold, role, fingerprint.
    """

    source: Source
    training: Dataset
    validation: Dataset
    testing: Dataset
    grouping: str
    table: list[list[Any]]

    @property
    def validation_groups(self) -> list[str]:
        """The patient or other group of each validation image."""
        group_of = {row[0]: row[2] for row in self.table}
        return [group_of[path] for path in self.validation.paths]

    @property
    def sha256(self) -> str:
        """Of the split: which images, by their pixels, and what each is for."""
        return hashlib.sha256("\n".join("\t".join(map(str, row)) for row in self.table).encode()).hexdigest()

    @property
    def is_kaggle_set(self) -> bool:
        """Whether most training images are of the Kaggle set that much is known about."""
        known = manifest.groups()
        return sum(fingerprint in known for fingerprint in self.training.fingerprints) * 2 > len(self.training)


def divide(
    source: Source,
    *,
    preprocessing: Preprocessing,
    folds: int,
    fold: int,
    max_unreadable: int,
    warn: Callable[[str], None],
) -> DividedData:
    """Loads a source and divides its Training images by patient; `fold` is the one to validate on.

    Raises:
      UsageError: too many unreadable files, or a fold that is not there.
    """
    if not 0 <= fold < folds:
        raise UsageError(f"config.data.fold is {fold}: use 0 to {folds - 1}, or -1 for all")
    dataset = load(source, preprocessing=preprocessing, max_unreadable=max_unreadable, warn=warn)
    trainable, testing = dataset.of_split("Training"), dataset.of_split("Testing")
    if source.groups and not any(path in source.groups for path in trainable.paths):
        warn(
            "groups.csv names none of the images: its paths must be relative to its folder, as Training/<class>/<image>"
        )
    groups, grouping = splits.group_images(
        paths=trainable.paths,
        fingerprints=trainable.fingerprints,
        thumbnails=trainable.thumbnails,
        table=source.groups,
    )
    fold_of = splits.assign_folds(labels=trainable.labels, groups=groups, folds=folds, class_names=source.class_names)
    table: list[list[Any]] = [
        [record.path, source.class_names[record.label], group, number, role, fingerprint]
        for record, group, number, role, fingerprint in zip(
            trainable.records,
            groups,
            fold_of,
            np.where(fold_of == fold, "validation", "training"),
            trainable.fingerprints,
            strict=True,
        )
    ]
    table += [
        [record.path, source.class_names[record.label], "", "", "testing", fingerprint]
        for record, fingerprint in zip(testing.records, testing.fingerprints, strict=True)
    ]
    return DividedData(
        source=source,
        training=trainable.select(fold_of != fold),
        validation=trainable.select(fold_of == fold),
        testing=testing,
        grouping=grouping,
        table=table,
    )
