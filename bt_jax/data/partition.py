"""The images of a run, divided: training, validation by patient, and testing."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from bt_jax.common.errors import UsageError
from bt_jax.data import kaggle_patients, patient_groups, splits
from bt_jax.data.dataset import Dataset, load
from bt_jax.data.preprocess import Preprocessing
from bt_jax.data.records import Source, StringArray
from bt_jax.data.shift_probe import Probe
from bt_jax.data.split_table import SplitTable


@dataclasses.dataclass(frozen=True)
class Partition:
    """All images of a run.

    Attributes:
      source: where they are from.
      training: what the network learns from.
      validation: whole patients kept apart, to choose by.
      testing: the source's Testing folder, looked at once at the end; may be empty.
      grouping: in words, what says which images belong together.
      table: the rows of `split.csv`.
      shifted: the images of the probe, kept from training and validation; without a probe there are none.
      probe: what they are.
      training_sources: [N] integers, the collection of each training image, see `patient_groups.infer_sources`.
    """

    source: Source
    training: Dataset
    validation: Dataset
    testing: Dataset
    grouping: str
    table: SplitTable
    shifted: Dataset
    probe: Probe | None
    training_sources: np.ndarray

    def look_up_groups(self, part: Dataset) -> list[str]:
        """The patient or other group of each image of a part; empty for those of testing."""
        return self.table.look_up_groups(part.paths)

    @property
    def training_kinds(self) -> np.ndarray:
        """[N] integers of the training images: their sources, where there are several, else their classes."""
        return self.training_sources if len(np.unique(self.training_sources)) > 1 else self.training.labels

    def compute_training_weights(self, balance: str) -> np.ndarray | None:
        """[N] float32 of the training images in the loss; None where they are all alike.

        Args:
          balance: `none`, or `source`, see `patient_groups.compute_balancing_weights`.
        """
        if balance == "none":
            return None
        return patient_groups.compute_balancing_weights(self.training_sources, self.training.labels)

    @property
    def facts(self) -> dict[str, Any]:
        """What a run's record says of them."""
        return {
            "source": self.source.description,
            "synthetic": self.source.synthetic,
            "kaggle_set": self.is_kaggle_set,
            "grouping": self.grouping,
            "probe": self.probe.description if self.probe else None,
            "sha256": self.sha256,
        }

    @property
    def sha256(self) -> str:
        """Of the split: which images, by their pixels, and what each is for."""
        return self.table.sha256

    @property
    def is_kaggle_set(self) -> bool:
        """Whether most training images are of the Kaggle set that much is known about."""
        known = kaggle_patients.load_groups()
        return sum(fingerprint in known for fingerprint in self.training.fingerprints) * 2 > len(self.training)


def divide(
    source: Source,
    *,
    preprocessing: Preprocessing,
    folds: int,
    fold: int,
    max_unreadable: int,
    warn: Callable[[str], None],
    probe: str = "",
    memory: float = math.inf,
) -> Partition:
    """Loads a source and divides its Training images by patient; `fold` is the one to validate on.

    With a probe the folds are those without it, less its images and all others of their groups, which might be nearly
    the same; the latter are set aside and not scored. `memory` is that of `dataset.load`.

    Raises:
      UsageError: too many unreadable files, a fold that is not there, or a probe that leaves nothing to train or to
        choose by.
    """
    check_fold(fold, folds=folds)
    dataset = load(source, preprocessing=preprocessing, max_unreadable=max_unreadable, warn=warn, memory=memory)
    trainable, testing = dataset.select_split("Training"), dataset.select_split("Testing")
    if source.groups and not any(path in source.groups for path in trainable.records.paths):
        warn(
            "groups.csv names none of the images: its paths must be relative to its folder, as Training/<class>/<image>"
        )
    groups, ranks, grouping = _group(trainable, source)
    fold_of = splits.assign_folds(labels=trainable.labels, groups=ranks, folds=folds, class_names=source.class_names)
    patients = patient_groups.find_patient_keys(trainable, source.patients)
    role = np.where(fold_of == fold, "validation", "training").astype("<U10")  # [N], in words
    chosen = Probe.parse(probe, class_names=source.class_names) if probe else None
    if chosen:
        rows = chosen.select_rows(trainable, class_names=source.class_names, patients=patients)
        role[np.isin(ranks, np.asarray(ranks)[rows])] = "set aside"
        role[rows] = "probe"
        _check_class(trainable.labels, role, label=source.class_names.index(chosen.class_name), probe=chosen)
    return Partition(
        source=source,
        training=trainable.select(role == "training"),
        validation=trainable.select(role == "validation"),
        testing=testing,
        grouping=grouping,
        table=SplitTable(
            class_names=source.class_names,
            trainable=trainable.records,
            groups=groups,
            folds=fold_of,
            roles=role,
            fingerprints=trainable.fingerprints,
            testing=testing.records,
            testing_fingerprints=testing.fingerprints,
        ),
        shifted=trainable.select(role == "probe"),
        probe=chosen,
        training_sources=patient_groups.infer_dataset_sources(trainable, patients)[role == "training"],
    )


def check_fold(fold: int, *, folds: int) -> None:
    """Refuses the number of a fold that is not there."""
    if not 0 <= fold < folds:
        raise UsageError(f"config.data.fold is {fold}: use 0 to {folds - 1}, or -1 for all")


def _group(trainable: Dataset, source: Source) -> tuple[Sequence[str], Sequence[str] | np.ndarray, str]:
    """The group of each image, the same or numbers in the order of their names, and in words where they come from."""
    index = trainable.index
    if index is not None:
        return StringArray(index.group_names.encoded[index.groups]), index.group_ranks, index.grouping
    groups, grouping = splits.group_images(
        paths=trainable.paths,
        fingerprints=trainable.fingerprints,
        thumbnails=trainable.thumbnails,
        table=source.groups,
    )
    return groups, groups, grouping


def _check_class(labels: np.ndarray, role: np.ndarray, *, label: int, probe: Probe) -> None:
    """Refuses a probe that leaves nothing of its class to learn from or to choose by."""
    for part in ("training", "validation"):
        if not (labels[role == part] == label).any():
            raise UsageError(
                f"config.data.probe is {probe.text!r}, which leaves no image of {probe.class_name} for {part}: choose "
                f"a smaller part of the class, or fewer folds"
            )
