import hypothesis
import pytest
from hypothesis import strategies as st

from bt_jax.data import class_labels

FOUR = class_labels.BRAIN_TUMOR_CLASSES


def test_order_and_spelling():
    assert FOUR == ("glioma_tumor", "meningioma_tumor", "no_tumor", "pituitary_tumor")


@pytest.mark.parametrize(
    ("folder", "name"),
    [
        ("glioma_tumor", "glioma_tumor"), ("Glioma", "glioma_tumor"), ("glioma-tumor", "glioma_tumor"),
        ("GLIOMA TUMOR", "glioma_tumor"), ("meningioma", "meningioma_tumor"), ("Meningioma_Tumor", "meningioma_tumor"),
        ("notumor", "no_tumor"), ("no-tumor", "no_tumor"), ("No Tumor", "no_tumor"), ("no", "no_tumor"),
        ("healthy", "no_tumor"), ("Normal", "no_tumor"), ("none", "no_tumor"), ("pituitary", "pituitary_tumor"),
        ("Glioma Tumour", "glioma_tumor"), ("NO-TUMOUR", "no_tumor"), (" glioma ", "glioma_tumor"),
        ("ge\u0301a ", "g\u00e9a"), ("yes", "yes"), ("Cats", "Cats"), ("gliomas", "gliomas"),
    ],
)  # fmt: skip
def test_canonical(folder, name):
    assert class_labels.canonicalise(folder) == name


@pytest.mark.parametrize(
    "folders",
    [("pituitary", "notumor", "meningioma", "glioma"), FOUR, ("no", "glioma_tumor"), ("Glioma",), FOUR[:2]],
)
def test_folders_of_the_set_have_those_of_its_four_classes_that_are_there_in_order(folders):
    names, number = class_labels.map_folders_to_classes(folders)
    present = {class_labels.canonicalise(folder) for folder in folders}
    assert names == tuple(name for name in FOUR if name in present)
    assert {folder: names[i] for folder, i in number.items()} == {
        folder: class_labels.canonicalise(folder) for folder in folders
    }


def test_two_spellings_of_a_class_are_one():
    names, number = class_labels.map_folders_to_classes(["glioma", "glioma_tumor", "none"])
    assert names == ("glioma_tumor", "no_tumor") and number == {"glioma": 0, "glioma_tumor": 0, "none": 1}


@pytest.mark.parametrize(
    "folders", [("yes", "no"), ("no",), ("normal", "pneumonia"), ("glioma", "cats"), ("none", "no")]
)
def test_any_other_set_keeps_its_own_names_in_alphabetical_order(folders):
    names, number = class_labels.map_folders_to_classes(folders)
    assert names == tuple(sorted(folders))
    assert number == {folder: names.index(folder) for folder in folders}


def test_a_name_as_macos_writes_it_is_the_same_class():
    """It writes an accent as a character of its own, and a copy made elsewhere does not."""
    assert class_labels.map_folders_to_classes(["ge\u0301a", "g\u00e9a", "b "]) == (
        ("b", "g\u00e9a"), {"ge\u0301a": 1, "g\u00e9a": 1, "b ": 0}
    )  # fmt: skip


@hypothesis.settings(deadline=None)
@hypothesis.given(folders=st.lists(st.text(min_size=1), min_size=1, unique=True), seed=st.randoms())
def test_the_order_of_the_folders_does_not_matter(folders, seed):
    shuffled = list(folders)
    seed.shuffle(shuffled)
    names, number = class_labels.map_folders_to_classes(folders)
    assert class_labels.map_folders_to_classes(shuffled) == (names, number)
    assert number.keys() == set(folders) and set(number.values()) <= set(range(len(names)))
