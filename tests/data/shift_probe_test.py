import dataclasses

import numpy as np
import pytest

from bt_jax.common.errors import UsageError
from bt_jax.data import dataset, patient_groups, sources
from bt_jax.data.class_labels import BRAIN_TUMOR_CLASSES as NAMES
from bt_jax.data.dataset import Dataset
from bt_jax.data.preprocess import Preprocessing
from bt_jax.data.shift_probe import Probe


@pytest.fixture(scope="module")
def images() -> Dataset:
    """Three images of each class: one of 512 x 512 pixels, two of 225 x 200."""
    source = sources.open_phantoms(per_class=(3, 0), seed=0)
    loaded = dataset.load(source, preprocessing=Preprocessing(size=8), max_unreadable=0, warn=pytest.fail)
    sizes = np.array([(512, 512), (225, 200), (225, 200)] * 4, np.int32)
    return dataclasses.replace(loaded, sizes=sizes)


PATIENTS = ["MR01", "1001", ""] * 4


def chosen(images: Dataset, text: str, patients: list[str] = PATIENTS) -> list[int]:
    probe = Probe.parse(text, class_names=NAMES)
    return np.flatnonzero(probe.select_rows(images, class_names=NAMES, patients=patients)).tolist()


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ("meningioma_tumor:web", [5]),
        ("meningioma", [5]),
        ("meningioma_tumor:patient=", [5]),
        ("meningioma_tumor:patient!=", [3, 4]),
        ("glioma_tumor:patient=[0-9]*", [1]),
        ("glioma_tumor:patient!=MR*", [1, 2]),
        ("no_tumor:size=225x*", [7, 8]),
        ("no_tumor:size!=225x200", [6]),
        ("Pituitary:size=512x512", [9]),
    ],
)
def test_which_images_are_meant(images: Dataset, text: str, rows: list[int]) -> None:
    assert chosen(images, text) == rows


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("astrocytoma:web", "'astrocytoma' is none of the classes glioma_tumor, "),
        (":web", "'' is none of the classes"),
        ("no_tumor:somewhere", "use CLASS:CUE=PATTERN"),
        ("no_tumor:colour=red", "use CLASS:CUE=PATTERN"),
        (
            "no_tumor:size=9x9",
            "none of the 3 images of no_tumor in Training match; values of size: 225x200, 512x512; use",
        ),
        (
            "no_tumor:patient=*",
            r"all of the 3 images of no_tumor in Training match; values of patient: \(unknown\), 1001",
        ),
    ],
)
def test_what_cannot_be_meant_is_refused(images: Dataset, text: str, message: str) -> None:
    with pytest.raises(UsageError, match=r"config\.data\.probe is .*" + message):
        chosen(images, text)


def test_many_values_are_summed_up(images: Dataset) -> None:
    many = dataclasses.replace(images.select(np.zeros(9, int)), sizes=np.arange(18).reshape(9, 2))
    with pytest.raises(UsageError, match=r"values of size: 0x1, 10x11, 12x13, 14x15, 16x17 and 4 others"):
        Probe.parse("glioma:size=x", class_names=NAMES).select_rows(many, class_names=NAMES, patients=[""] * 9)


def test_classes_of_other_sets_keep_their_names() -> None:
    assert Probe.parse("no:size=1x1", class_names=("no", "yes")).class_name == "no"


@pytest.mark.parametrize(
    ("text", "description"),
    [
        ("meningioma:web", "meningioma_tumor without a known patient"),
        ("meningioma:patient!=", "meningioma_tumor with a known patient"),
        ("glioma:patient=[0-9]*", "glioma_tumor whose patient's key is [0-9]*"),
        ("no_tumor:size!=225x225", "no_tumor whose width x height is not 225x225"),
    ],
)
def test_in_words(text: str, description: str) -> None:
    assert Probe.parse(text, class_names=NAMES).description == description


@pytest.mark.real_data
def test_the_probes_of_the_real_images(real_source: sources.Source, real_dataset: Dataset) -> None:
    """The web meningiomas, and the gliomas of the collection that the other tumours are of."""
    training = real_dataset.select_split("Training")
    patients = patient_groups.find_patient_keys(training, real_source.patients)
    assert patients == patient_groups.find_patient_keys(training, {})  # the package's own table says the same
    assert len(chosen(training, "meningioma_tumor:web", patients)) == 143
    assert len(chosen(training, "glioma_tumor:patient=[0-9]*", patients)) == 148
    collections = patient_groups.infer_sources(patients)
    assert sorted(np.bincount(collections)) == [553, 678, 1639]
