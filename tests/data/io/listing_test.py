import os
import pathlib
import warnings
import zipfile

import pytest

from bt_jax.common.errors import UsageError
from bt_jax.data import sources
from bt_jax.data.io import listing
from tests.data.conftest import Folder


def write_zip(path: pathlib.Path, *names: str) -> pathlib.Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of repeated names
        with zipfile.ZipFile(path, "w") as archive:
            for name in names:
                archive.writestr(zipfile.ZipInfo(name), name)
    return path


def test_a_name_that_is_not_utf8_is_printable_and_can_be_read(tmp_path):
    (tmp_path / os.fsdecode(b"ni\xf1o.jpg")).write_bytes(b"x")
    found = listing.list_folder(tmp_path)
    assert list(found.names) == [r"ni\xf1o.jpg"]
    assert found.read(r"ni\xf1o.jpg") == b"x"


def test_a_data_folder_whose_own_name_is_not_utf8(tmp_path):
    path = tmp_path / os.fsdecode(b"a\xf1o")
    Folder(path).add("a").add("b")
    source = sources.open_path(path, field="--data")
    assert source.description.endswith(r"a\xf1o")
    assert all(source.read(record.path) for record in source.records)
    assert all(line.encode() for line in source.warnings)


@pytest.mark.parametrize("target", ["..", ".", "../..", "a"])
def test_links_that_lead_back_are_followed_once(folder, target):
    folder.add("Training/a").add("Training/b")
    before = folder.open().records
    (folder.path / "Training/up").symlink_to(target)
    (folder.path / "here").symlink_to(".")
    source = folder.open()
    assert source.records == before
    line = next(line for line in source.warnings if "links that lead back" in line)
    assert line.endswith(": left out")


def test_a_folder_is_listed_by_its_own_path_rather_than_a_link_to_it(folder):
    folder.add("z/deep")
    (folder.path / "a").symlink_to("z/deep")
    assert sorted(listing.list_folder(folder.path).names) == ["z/deep/image (1).png", "z/deep/image (2).png"]


def test_two_links_to_one_image_count_once(folder):
    folder.add("all", images=3)
    for name, number in (("a/1.png", 1), ("a/2.png", 2), ("b/1.png", 3), ("b/2.png", 1)):
        (folder.path / "Training" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder.path / "Training" / name).symlink_to(folder.path / f"all/image ({number}).png")
    source = folder.open()
    assert [record.path for record in source.records] == ["Training/a/1.png", "Training/a/2.png", "Training/b/1.png"]
    assert any("counted already (1), such as Training/b/2.png: left out" in line for line in source.warnings)


def test_pipes_are_left_out(folder):
    folder.add("a").add("b")
    os.mkfifo(folder.path / "a/pipe")
    source = folder.open()
    assert len(source.records) == 4
    assert any("pipes or devices" in line and "a/pipe" in line for line in source.warnings)


def test_broken_links_are_files_that_cannot_be_read(folder):
    folder.add("a").add("b")
    (folder.path / "a/lost.png").symlink_to("nowhere.png")
    assert "a/lost.png" in [record.path for record in folder.open().records]


def test_a_folder_that_cannot_be_listed(folder, monkeypatch):
    folder.add("a").add("b")
    scandir = os.scandir

    def refuse(path: pathlib.Path) -> object:
        if path.name == "b":
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(UsageError, match=r"b cannot be listed \(Permission denied\): make it readable or remove it"):
        folder.open()


def test_backslashes_of_windows_separate_folders(tmp_path):
    """As Compress-Archive of Windows PowerShell 5.1 writes them."""
    path = write_zip(tmp_path / "set.zip", "Training\\", "Training\\a\\1.png", "Training\\b\\1.png", "x/y\\z.png")
    found = listing.list_zip(path)
    assert found.names == {
        "Training/a/1.png": "Training\\a\\1.png", "Training/b/1.png": "Training\\b\\1.png", "x/y\\z.png": "x/y\\z.png"
    }  # fmt: skip
    assert found.folders == ["Training"]
    assert found.read("Training/a/1.png") == b"Training\\a\\1.png"


def test_slashes_may_be_mixed_in_what_windows_wrote(tmp_path):
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        for name, system in (("set/a\\1.png", 0), ("set\\a/2.png", 0), ("x/y\\z.png", 3)):
            member = zipfile.ZipInfo(name)
            member.create_system = system
            archive.writestr(member, name)
    assert list(listing.list_zip(tmp_path / "set.zip").names) == ["set/a/1.png", "set/a/2.png", "x/y\\z.png"]


def test_dots_in_the_paths_of_a_zip_do_not_count(tmp_path):
    path = write_zip(tmp_path / "set.zip", "../a/1.png", "b/./2.png", "b//3.png", "./", "../../etc/")
    found = listing.list_zip(path)
    assert list(found.names) == ["a/1.png", "b/2.png", "b/3.png"]
    assert found.folders == ["etc"]


def test_links_in_a_zip_are_left_out(tmp_path):
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        archive.writestr("a/1.png", b"x")
        link = zipfile.ZipInfo("a/2.png")
        link.create_system, link.external_attr = 3, 0o120777 << 16
        archive.writestr(link, "1.png")
    found = listing.list_zip(tmp_path / "set.zip")
    assert list(found.names) == ["a/1.png"]
    assert [line for line in found.warnings if line.endswith("(1), such as a/2.png: left out")]


def test_a_member_that_occurs_twice_is_listed_once(tmp_path):
    path = write_zip(tmp_path / "set.zip", "./a/1.png", "b/1.png", "b/1.png", "/b/2.png")
    assert list(listing.list_zip(path).names) == ["a/1.png", "b/1.png", "b/2.png"]


def test_a_zip_with_a_damaged_directory(tmp_path):
    path = write_zip(tmp_path / "set.zip", "a/1.png", "b/1.png")
    content = bytearray(path.read_bytes())
    content[content.index(b"PK\x01\x02")] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(UsageError, match=r"set\.zip is a damaged zip \(.*\): download or pack it again"):
        sources.open_path(path, field="--data")
