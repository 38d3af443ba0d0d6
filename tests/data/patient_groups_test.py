import dataclasses
import re
import types

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bt_jax.data import dataset, kaggle_patients, patient_groups
from bt_jax.data.dataset import Dataset
from bt_jax.data.preprocess import Preprocessing
from bt_jax.data.records import StringArray
from tests.data.conftest import Folder


def loaded(folder: Folder) -> Dataset:
    return dataset.load(
        folder.open(), preprocessing=Preprocessing(form="stretch", size=8), max_unreadable=0, warn=print
    )


def test_nobody_is_known(kaggle: Folder) -> None:
    images = loaded(kaggle)
    assert patient_groups.group_by_patient(images, {}) is None
    assert patient_groups.group_by_patient(images, {"Training/elsewhere.png": "p"}) is None
    assert patient_groups.group_by_patient(images.select(np.zeros(0, int)), {images.paths[0]: "p"}) is None


def test_the_table_names_some_and_the_others_are_their_own(kaggle: Folder) -> None:
    images = loaded(kaggle)
    table = dict.fromkeys(images.paths[:3], "p")
    found = patient_groups.group_by_patient(images, table)
    assert found is not None
    groups, words = found
    assert groups[:3] == ["p"] * 3
    assert len(set(groups)) == len(images) - 2
    assert words.startswith("3 images by groups.csv, ")


def test_the_package_knows_images_by_their_pixels(kaggle: Folder) -> None:
    images = loaded(kaggle)
    fingerprint, group = next(iter(kaggle_patients.load_groups().items()))
    renamed = dataclasses.replace(images, fingerprints=(fingerprint, *images.fingerprints[1:]))
    found = patient_groups.group_by_patient(renamed, {})
    assert found is not None
    assert found[0][0] == group
    assert "the known patients of this data set" in found[1]


def test_keys_are_those_of_the_table_then_of_the_package(kaggle: Folder) -> None:
    images = loaded(kaggle)
    fingerprint, key = next((print_, key) for print_, key in kaggle_patients.load_patients().items() if key)
    renamed = dataclasses.replace(images, fingerprints=(fingerprint, fingerprint, *images.fingerprints[2:]))
    keys = patient_groups.find_patient_keys(renamed, {renamed.paths[1]: "", renamed.paths[2]: "p"})
    assert keys[:3] == [key, "", "p"]
    assert set(keys[3:]) == {""}


def test_collections_are_told_by_how_hospitals_number() -> None:
    numbers = patient_groups.infer_sources(["MR01", "", "1001", "MR7x", "100", ""])
    assert numbers[0] == numbers[3] != numbers[2] == numbers[4] != numbers[1] == numbers[5]
    assert sorted(set(numbers.tolist())) == [0, 1, 2]
    assert patient_groups.infer_sources([]).shape == (0,)


@given(keys=st.lists(st.text("aZ7é", max_size=4), max_size=9))
def test_collections_are_told_by_the_first_letters(keys: list[str]) -> None:
    first = [re.match("[A-Za-z]*", key)[0] if key else "?" for key in keys]  # type: ignore[index]
    numbers = patient_groups.infer_sources(keys)
    assert numbers.tolist() == [sorted(set(first)).index(one) for one in first]


def test_an_index_tells_the_same_collections() -> None:
    names = ["A1", "none of these", "MR2", "7", "A3"]
    patients = np.array([2, 0, -1, 4, 3, 0], np.int32)
    index = types.SimpleNamespace(patient_names=StringArray.from_strings(names), patients=patients)
    keys = [names[number] if number >= 0 else "" for number in patients]
    found = patient_groups.infer_dataset_sources(types.SimpleNamespace(index=index), keys)  # type: ignore[arg-type]
    np.testing.assert_array_equal(found, patient_groups.infer_sources(keys))


@settings(deadline=None)
@given(
    rows=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 2)), min_size=1, max_size=60),
    largest=st.sampled_from([1.0, 5.0, 1e9]),
)
def test_weights_balance_sources_inside_of_classes(rows: list[tuple[int, int]], largest: float) -> None:
    sources, labels = np.array(rows).T
    weights = patient_groups.compute_balancing_weights(sources, labels, largest=largest)
    assert weights.dtype == np.float32 and weights.min() > 0
    for label in np.unique(labels):
        of_class = labels == label
        assert weights[of_class].sum() == pytest.approx(of_class.sum(), rel=1e-4)
        shares = [weights[of_class & (sources == source)].sum() for source in np.unique(sources[of_class])]
        if largest == 1e9:
            assert shares == pytest.approx([of_class.sum() / len(shares)] * len(shares), rel=1e-4)
        if len(shares) == 1:
            assert weights[of_class] == pytest.approx(1, rel=1e-4)


def test_a_handful_of_images_does_not_stand_for_a_source() -> None:
    sources = np.array([0] * 800 + [1] * 2)
    weights = patient_groups.compute_balancing_weights(sources, np.zeros(802, int))
    assert weights[-1] / weights[0] == pytest.approx(5 / (802 / 1600), rel=1e-4)
