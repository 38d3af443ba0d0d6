"""Partition of the images of a run into training, validation by patient, and testing."""

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
      source: where the images come from.
      training: images to train on.
      validation: images of other patients, for model selection; empty without folds.
      testing: the source's Testing folder, evaluated once at the end; may be empty.
      grouping: where the groups come from, for reports.
      table: the rows of `split.csv`.
      validation_known: [N] bool, whether the patient of a validation image has a name in the data.
      shifted: the images of the shift probe, held out from training and validation; empty without a probe.
      probe: the shift probe.
      training_sources: [N] integers, the source of each training image, see `patient_groups.infer_sources`.
    """

    source: Source
    training: Dataset
    validation: Dataset
    testing: Dataset
    grouping: str
    table: SplitTable
    validation_known: np.ndarray
    shifted: Dataset
    probe: Probe | None
    training_sources: np.ndarray

    def look_up_groups(self, part: Dataset) -> list[str]:
        """Returns the patient or other group of each image of a part; empty for Testing images."""
        return self.table.look_up_groups(part.paths)

    def compute_training_weights(self, balance: str) -> np.ndarray | None:
        """Computes weights of the training images in the loss, [N] float32; None if all weights are 1.

        Args:
          balance: `none`, or `source`, see `patient_groups.compute_balancing_weights`.
        """
        if balance == "none":
            return None
        return patient_groups.compute_balancing_weights(self.training_sources, self.training.labels)

    @property
    def facts(self) -> dict[str, Any]:
        """The facts for a run's record."""
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
        """The hash of the split: it identifies the images by their pixels, and what each is used for."""
        return self.table.sha256

    @property
    def is_kaggle_set(self) -> bool:
        """Whether most training images belong to the Kaggle data set."""
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
    """Loads a source and divides its Training images by patient.

    With a probe, the folds are the same as without it. The probe's images are removed from them, together with all
    other images of their groups, which may be near-duplicates. These others are set aside and not evaluated.

    Args:
      source: the images.
      preprocessing: applied to each image.
      folds: number of folds; 0: all images are for training.
      fold: the fold to validate on.
      max_unreadable: see `dataset.load`.
      warn: called with one line for each warning.
      probe: see `Probe.parse`; empty for none.
      memory: see `dataset.load`.

    Raises:
      UsageError: too many unreadable files, an invalid fold, or a probe that leaves no image of its class for training
        or validation.
    """
    check_fold(fold, folds=folds)
    dataset = load(source, preprocessing=preprocessing, max_unreadable=max_unreadable, warn=warn, memory=memory)
    trainable, testing = dataset.select_split("Training"), dataset.select_split("Testing")
    if source.groups and not any(path in source.groups for path in trainable.records.paths):
        warn("groups.csv names none of the images: its paths must be relative to its folder: Training/<class>/<image>")
    groups, ranks, grouping = _group(trainable, source)
    fold_of = _assign_folds(trainable, ranks, folds=folds, class_names=source.class_names)
    patients = patient_groups.find_patient_keys(trainable, source.patients)
    validated = fold_of == fold if folds else np.zeros(len(trainable), bool)
    role = np.where(validated, "validation", "training").astype("<U10")  # [N]
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
        validation_known=np.array([bool(key) for key in patients], bool)[role == "validation"],
        shifted=trainable.select(role == "probe"),
        probe=chosen,
        training_sources=patient_groups.infer_dataset_sources(trainable, patients)[role == "training"],
    )


def check_fold(fold: int, *, folds: int) -> None:
    """Refuses the number of a fold that is not there."""
    if not folds:
        if fold:
            raise UsageError(f"config.data.fold is {fold}: use 0, since config.data.folds is 0, or at least 2 folds")
    elif not 0 <= fold < folds:
        raise UsageError(f"config.data.fold is {fold}: use 0 to {folds - 1}, or -1 for all")


def _assign_folds(
    trainable: Dataset, groups: Sequence[str] | np.ndarray, *, folds: int, class_names: Sequence[str]
) -> np.ndarray:
    """Returns the fold of each image, as `split.csv` has it: [N] integers, or empty strings without folds."""
    if folds:
        return splits.assign_folds(labels=trainable.labels, groups=groups, folds=folds, class_names=class_names)
    if not len(trainable):
        raise UsageError(splits.NO_IMAGES)
    return np.full(len(trainable), "")


def _group(trainable: Dataset, source: Source) -> tuple[Sequence[str], Sequence[str] | np.ndarray, str]:
    """Returns the group of each image, sortable groups (names or numbers), and where the groups come from."""
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
    """Raises `UsageError` for a probe that leaves no image of its class for training or validation."""
    for part in ("training", "validation") if "validation" in role else ("training",):
        if not (labels[role == part] == label).any():
            raise UsageError(
                f"config.data.probe is {probe.text!r}, which leaves no image of {probe.class_name} for {part}: choose "
                f"a smaller part of the class, or fewer folds"
            )
