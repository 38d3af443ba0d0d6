import pytest

from bt_jax.data import folder_names


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("Training", "Training"), ("train", "Training"), ("TRAIN_SET", "Training"), ("training-data", "Training"),
        ("Test Images", "Testing"), ("testing", "Testing"), ("val", "Validation"), ("Valid", "Validation"),
        ("validation_dataset", "Validation"), ("trainer", None), ("invalid", None), ("glioma", None), ("set", None),
    ],
)  # fmt: skip
def test_spellings_of_splits(name, split):
    assert folder_names.find_split(name) == split


def test_parts_of_a_path():
    assert (folder_names.get_parent("a/b/c"), folder_names.get_name("a/b/c")) == ("a/b", "c")
    assert (folder_names.get_parent("a"), folder_names.get_name("a")) == ("", "a")
    assert folder_names.list_parents("a/b") == ["a/b", "a", ""]
    assert [folder_names.get_depth(path) for path in ("", "a", "a/b")] == [0, 1, 2]


@pytest.mark.parametrize(
    ("path", "folder", "below"),
    [("a/b", "a", True), ("a", "a", True), ("a/b", "", True), ("ab", "a", False), ("a", "a/b", False)],
)
def test_below(path, folder, below):
    assert folder_names.is_below(path, folder) == below


@pytest.mark.parametrize(
    ("name", "beside"), [("a/test", True), ("pred", True), ("No_Label", True), ("glioma", False), ("test/a", False)]
)
def test_folders_that_lie_beside_classes(name, beside):
    assert folder_names.is_beside_classes(name) == beside
