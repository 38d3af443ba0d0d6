"""Fingerprints and thumbnails of the training and validation images, kept with a model to find leaked test images."""

import os
import pathlib
from collections.abc import Sequence

import numpy as np

from bt_jax.common import files
from bt_jax.data.dataset import Dataset
from bt_jax.data.dedup import near_duplicates
from bt_jax.data.records import StringArray

FILE = "seen_images.npz"


def write(folder: str | os.PathLike[str], datasets: Sequence[Dataset]) -> None:
    """Writes fingerprints and thumbnails of training and validation images to a workdir."""
    many = any(dataset.index is not None for dataset in datasets)
    save = np.savez if many else np.savez_compressed  # compression takes ten times as long
    with files.replace_atomically(pathlib.Path(folder) / FILE) as temporary:
        save(
            temporary,
            fingerprints=np.concatenate([_to_array(dataset.fingerprints) for dataset in datasets]),
            thumbnails=np.concatenate([dataset.thumbnails for dataset in datasets]),
        )


def _to_array(fingerprints: Sequence[str]) -> np.ndarray:
    return fingerprints.encoded if isinstance(fingerprints, StringArray) else np.array(fingerprints, str)


def read(folder: str | os.PathLike[str]) -> tuple[set[str], np.ndarray]:
    """Reads the fingerprints, and the thumbnails [N, 2, S, S] uint8."""
    with np.load(pathlib.Path(folder) / FILE, allow_pickle=False) as content:
        return set(content["fingerprints"].astype(str).tolist()), content["thumbnails"]


def has_near_duplicate(dataset: Dataset, fingerprints: set[str], thumbnails: np.ndarray) -> np.ndarray:
    """Returns which images have a near-duplicate among the given ones, by fingerprint or by thumbnails: [N] bool."""
    found = np.array([fingerprint in fingerprints for fingerprint in dataset.fingerprints], bool)
    if not len(dataset.thumbnails) or not len(thumbnails):
        return found
    others = np.flatnonzero(~found)
    found[others] = near_duplicates.has_near_duplicate(dataset.thumbnails[others], thumbnails)
    return found
