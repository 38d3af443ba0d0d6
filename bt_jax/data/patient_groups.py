"""The patients of images, if known, and the acquisition sources that can be inferred from their keys."""

import string
from collections.abc import Mapping, Sequence

import numpy as np

from bt_jax.data import kaggle_patients, splits
from bt_jax.data.dataset import Dataset
from bt_jax.data.records import StringArray

_IS_LETTER = np.isin(np.arange(256), list(string.ascii_letters.encode()))


def group_by_patient(dataset: Dataset, table: Mapping[str, str]) -> tuple[list[str], str] | None:
    """Returns a group for every image, and where the groups come from; None if no image's patient is known.

    Images without a known patient are grouped with their near-duplicates, unless the data set is too large for that.

    Args:
      dataset: the images.
      table: path -> patient, of the data's own `groups.csv`; may be empty or lack images.
    """
    if dataset.index is not None:
        if not (dataset.index.patients >= 0).any():
            return None
        keys = dataset.index.patient_keys
        alone = [key or f"image-{row}" for row, key in enumerate(keys)]
        return alone, f"{sum(map(bool, keys))} images by patient, each other image by itself"
    known = kaggle_patients.load_groups()
    if not any(path in table for path in dataset.paths) and not any(print_ in known for print_ in dataset.fingerprints):
        return None
    return splits.group_images(
        paths=dataset.paths, fingerprints=dataset.fingerprints, thumbnails=dataset.thumbnails, table=table
    )


def find_patient_keys(dataset: Dataset, table: Mapping[str, str]) -> list[str]:
    """Returns the key of each image's patient, empty if unknown.

    Args:
      dataset: the images.
      table: path -> key, of the data's own `groups.csv`; may be empty or lack images.
    """
    if dataset.index is not None:
        return dataset.index.patient_keys
    known = kaggle_patients.load_patients()
    return [
        table.get(path, known.get(fingerprint, ""))
        for path, fingerprint in zip(dataset.paths, dataset.fingerprints, strict=True)
    ]


def infer_dataset_sources(dataset: Dataset, keys: Sequence[str]) -> np.ndarray:
    """Returns `infer_sources` of the keys from `find_patient_keys`; with an index, from one key for each patient."""
    if dataset.index is None:
        return infer_sources(keys)
    of_patient = infer_sources([*dataset.index.patient_names, ""])  # index -1 is the last row
    return np.unique(of_patient[dataset.index.patients], return_inverse=True)[1].astype(np.int64)


def infer_sources(keys: Sequence[str]) -> np.ndarray:
    """Infers the acquisition source of each image, as numbers from 0: [N] int64.

    Images without a known patient form one source. The others are divided by the letters at the beginning of the
    patient's key, since hospitals number patients in different ways. The Kaggle set has keys like `MR048994` and
    `101017`; every patient of the first kind has a glioma.
    """
    encoded = StringArray.from_strings(keys).encoded  # [N] bytes
    characters = encoded.view(np.uint8).reshape(len(encoded), encoded.itemsize)  # [N, length of the longest]
    beginning = np.logical_and.accumulate(_IS_LETTER[characters], axis=1)
    letters = np.where(beginning, characters, np.uint8(0)).view(encoded.dtype)[:, 0]
    letters[encoded == b""] = b"?"
    return np.unique(letters, return_inverse=True)[1].astype(np.int64)


def compute_balancing_weights(sources: np.ndarray, labels: np.ndarray, *, largest: float = 5.0) -> np.ndarray:
    """Computes weights of images that give all sources of a class the same total weight: [N] float32.

    The total weight of each class stays the same. A few images cannot represent a source, so no weight exceeds
    `largest` times the mean of the class, before the weights are scaled.

    Args:
      sources: [N] integers.
      labels: [N] integers.
      largest: largest weight of an image.
    """
    weights = np.ones(len(labels))
    for label in np.unique(labels):
        of_class = labels == label
        _, number, counts = np.unique(sources[of_class], return_inverse=True, return_counts=True)
        wanted = np.minimum(of_class.sum() / (len(counts) * counts), largest)[number]
        weights[of_class] = wanted / wanted.mean()
    return weights.astype(np.float32)
