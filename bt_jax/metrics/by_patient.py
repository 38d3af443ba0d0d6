"""Scores by patient: slices of one patient are not independent.

An interval that resamples images treats twenty slices of a patient as twenty independent observations, so it is too
narrow. This module resamples patients, each with all its images (the cluster bootstrap; Field and Welsh 2007,
doi:10.1111/j.1467-9868.2007.00593.x). If the patients are unknown, the groups may be near-duplicate images instead.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from bt_jax.metrics import confusion

RESAMPLES = 2000
_AT_ONCE = 100  # resamples computed together; each is a row with a count for every patient


@dataclasses.dataclass(frozen=True)
class Patients:
    """The patient of each image.

    Attributes:
      groups: [N], equal for the images of a patient.
      grouping: how the patients are known, as text.
    """

    groups: Sequence[str]
    grouping: str

    def select(self, rows: np.ndarray) -> "Patients":
        """Returns the patients of the images selected by a mask [N] bool."""
        return Patients([group for group, chosen in zip(self.groups, rows, strict=True) if chosen], self.grouping)


def score(
    patients: Patients, *, labels: np.ndarray, probabilities: np.ndarray, class_names: Sequence[str], seed: int
) -> dict[str, Any]:
    """Computes the block `patients` of `metrics.json`. Undefined values are NaN.

    Args:
      patients: of the N images.
      labels: [N] integers.
      probabilities: [N, C] floats.
      class_names: C names.
      seed: of the resamples.

    Returns:
      `n`, the number of patients; `grouping`, as text; `several_labels`, the number of patients whose images differ in
      class, which count for their most frequent class; `image_intervals` with the 95 % intervals of the `accuracy`, the
      `macro_f1` and the `recall` of each class over images, with patients resampled; and `accuracy`, `accuracy_ci95`,
      `macro_f1`, `macro_f1_ci95` over patients, each predicted from the mean probabilities of its images. Intervals
      need at least two patients.
    """
    C = len(class_names)
    number_of = {group: i for i, group in enumerate(dict.fromkeys(patients.groups))}
    rows = np.array([number_of[group] for group in patients.groups], np.int64)  # [N], each image's patient
    P = len(number_of)
    of_images = np.zeros((P, C, C), np.int64)
    np.add.at(of_images, (rows, labels, probabilities.argmax(axis=1)), 1)
    sums = np.zeros((P, C))
    np.add.at(sums, rows, probabilities)
    by_class = of_images.sum(axis=2)  # [P, C]
    of_patients = np.zeros((P, C, C), np.int64)
    of_patients[np.arange(P), by_class.argmax(axis=1), sums.argmax(axis=1)] = 1
    whole = confusion.compute_measures(of_patients.sum(axis=0))
    image_accuracy, image_f1, image_recall = _compute_intervals(of_images, seed)
    accuracy, f1, _ = _compute_intervals(of_patients, seed)
    return {
        "n": P,
        "grouping": patients.grouping,
        "several_labels": int(((by_class > 0).sum(axis=1) > 1).sum()),
        "image_intervals": {
            "accuracy": image_accuracy,
            "macro_f1": image_f1,
            "recall": dict(zip(class_names, image_recall.T, strict=True)),
        },
        "accuracy": whole.accuracy,
        "accuracy_ci95": accuracy,
        "macro_f1": whole.macro(whole.f1),
        "macro_f1_ci95": f1,
    }


def _compute_intervals(matrices: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Computes 95 % intervals of accuracy [2], macro-F1 [2] and recall [2, C] by resampling P matrices [P, C, C]."""
    P, C, _ = matrices.shape
    if P < 2:
        return np.full(2, np.nan), np.full(2, np.nan), np.full((2, C), np.nan)
    found = [confusion.compute_measures(resample) for resample in _resample(matrices, seed)]
    accuracy = np.concatenate([part.accuracy for part in found])  # [R]
    f1 = np.concatenate([part.macro(part.f1) for part in found])  # [R]
    recall = np.concatenate([part.recall for part in found])  # [R, C]
    # A class may be absent from a resample. A class without images has no interval.
    present = ~np.isnan(recall).all(axis=0)
    limits = np.full((2, C), np.nan)
    limits[:, present] = np.nanpercentile(recall[:, present], (2.5, 97.5), axis=0)
    return np.percentile(accuracy, (2.5, 97.5)), np.percentile(f1, (2.5, 97.5)), limits


def _resample(matrices: np.ndarray, seed: int) -> Iterator[np.ndarray]:
    """Yields sums of P matrices drawn with replacement, in parts [R, C, C]: `RESAMPLES` in all."""
    P, C, _ = matrices.shape
    rng = np.random.default_rng(seed)
    flat = matrices.reshape(P, C * C)
    for _ in range(RESAMPLES // _AT_ONCE):
        times = np.stack([np.bincount(rng.integers(0, P, P), minlength=P) for _ in range(_AT_ONCE)])  # [R, P]
        yield (times @ flat).reshape(_AT_ONCE, C, C)
