import json
import pathlib

import pytest
from etils import epath

from bt_jax.workdir import checksums


@pytest.fixture
def folder(tmp_path: pathlib.Path) -> epath.Path:
    """A sealed folder with files below it, one of them empty and one larger than what is read at once."""
    path = tmp_path / "sealed"
    (path / "a" / "deep").mkdir(parents=True)
    (path / "one").write_bytes(b"1" * (2**22 + 3))
    (path / "a" / "two").write_bytes(b"22")
    (path / "a" / "deep" / "empty").write_bytes(b"")
    checksums.seal(epath.Path(path))
    return epath.Path(path)


def test_what_is_as_it_was_has_no_flaw(folder):
    assert checksums.is_sealed(folder) and checksums.find_flaw(folder) is None
    checksums.seal(folder)  # again, which does not list the list
    assert checksums.find_flaw(folder) is None
    assert set(json.loads((folder / checksums.FILE).read_text())["files"]) == {"one", "a/two", "a/deep/empty"}
    assert [path.name for path in folder.parent.iterdir()] == ["sealed"]


@pytest.mark.parametrize(
    ("name", "content", "flaw"),
    [
        ("a/two", b"23", "a/two differs from what was written"),
        ("a/two", b"2", "a/two differs from what was written"),
        ("a/deep/empty", b"x", "a/deep/empty differs from what was written"),
        ("one", None, "one is missing"),
        (checksums.FILE, b"{", "checksums.json cannot be read"),
    ],
)
def test_flaws_in_words(folder, name, content, flaw):
    (folder / name).unlink()
    if content is not None:
        (folder / name).write_bytes(content)
    assert checksums.find_flaw(folder) == flaw
    if name == "one":
        assert checksums.find_flaw(folder, parts=("a",)) is None


def test_a_folder_without_a_list(tmp_path):
    assert not checksums.is_sealed(epath.Path(tmp_path))
    assert checksums.find_flaw(epath.Path(tmp_path)) == "checksums.json cannot be read"
