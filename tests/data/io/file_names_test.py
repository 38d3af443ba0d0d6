import pytest

from bt_jax.data.io import file_names


@pytest.mark.parametrize(
    ("path", "hidden"),
    [
        ("a/1.png", False), ("a/.1.png", True), (".git/1.png", True), ("a/Thumbs.db", True), ("a/thumbs.db", True),
        ("__MACOSX/a/1.png", True), ("a/@eaDir/1.png", True), ("a/Thumbs.db/1.png", False), ("Icon\r", True),
        ("$RECYCLE.BIN/1.png", True), ("lost+found/1", True), ("no_tumor/1.png", False),
    ],
)  # fmt: skip
def test_hidden(path, hidden):
    assert file_names.is_hidden(path.split("/")) == hidden


@pytest.mark.parametrize(
    ("name", "possible"),
    [
        ("1.png", True), ("1.JFIF", True), ("IM0001", True), ("1.2.840.113619", True), ("1.nii.gz", True),
        ("1.DCM.gz", True), ("1.csv.gz", False),
        ("labels.txt", False), ("paper.PDF", False), ("data.csv", False), ("set.tar.gz", False),
    ],
)  # fmt: skip
def test_can_be_image(name, possible):
    assert file_names.can_be_image(name) == possible
