import dataclasses

import numpy as np

from bt_jax.data import dataset, known_patients, manifest
from bt_jax.data.dataset import Dataset
from bt_jax.data.preprocess import Preprocessing
from tests.data.conftest import Folder


def loaded(folder: Folder) -> Dataset:
    return dataset.load(
        folder.open(), preprocessing=Preprocessing(form="stretch", size=8), max_unreadable=0, warn=print
    )


def test_nobody_is_known(kaggle: Folder) -> None:
    images = loaded(kaggle)
    assert known_patients.groups_of(images, {}) is None
    assert known_patients.groups_of(images, {"Training/elsewhere.png": "p"}) is None
    assert known_patients.groups_of(images.select(np.zeros(0, int)), {images.paths[0]: "p"}) is None


def test_the_table_names_some_and_the_others_are_their_own(kaggle: Folder) -> None:
    images = loaded(kaggle)
    table = dict.fromkeys(images.paths[:3], "p")
    found = known_patients.groups_of(images, table)
    assert found is not None
    groups, words = found
    assert groups[:3] == ["p"] * 3
    assert len(set(groups)) == len(images) - 2
    assert words.startswith("3 images by groups.csv, ")


def test_the_package_knows_images_by_their_pixels(kaggle: Folder) -> None:
    images = loaded(kaggle)
    fingerprint, group = next(iter(manifest.groups().items()))
    renamed = dataclasses.replace(images, fingerprints=(fingerprint, *images.fingerprints[1:]))
    found = known_patients.groups_of(renamed, {})
    assert found is not None
    assert found[0][0] == group
    assert "the patients known for this data set" in found[1]
