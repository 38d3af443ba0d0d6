"""What is read of what a person names."""

import os
import pathlib
import warnings
import zipfile

import pytest

from bt_jax.data.io import nifti
from bt_jax.data.io.slices import UnreadableError
from bt_jax.inference import inputs
from tests import encrypted_zip, hostile_inputs, medical_files


@pytest.fixture
def said() -> list[str]:
    return []


def names(paths, said) -> list[str]:
    return [item.name for item in inputs.expand([str(path) for path in paths], left_out=said.append)]


def failures(paths, said) -> dict[str, str]:
    found = {}
    for item in inputs.expand([str(path) for path in paths], left_out=said.append):
        try:
            item.read(10)
        except (UnreadableError, OSError) as error:
            found[item.name] = inputs.describe_error(error)
    return found


def write(folder: pathlib.Path, *paths: str, content: bytes = b"x") -> None:
    for name in paths:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


def test_folders_are_searched_in_the_order_of_names(tmp_path, said):
    write(
        tmp_path, "b.png", "a/2.jpg", "a/1.JPG", "a/deep/er/x.dcm", "c.nii.gz", ".hidden.png", ".git/x.png", "Thumbs.db"
    )
    found = [str(pathlib.Path(name).relative_to(tmp_path)) for name in names([tmp_path], said)]
    assert found == ["b.png", "c.nii.gz", "a/1.JPG", "a/2.jpg", "a/deep/er/x.dcm"]
    assert said == []


def test_other_files_are_counted_and_those_without_a_suffix_looked_into(tmp_path, said):
    write(tmp_path, "notes.txt", "LICENSE", "table.csv", "1.2.840.99", "more.tar.gz")
    write(tmp_path, "IM000001", "1.2.840.113", content=medical_files.dicom(hostile_inputs.scan()))
    write(tmp_path, "DICOMDIR", content=bytes(128) + b"DICM")
    found = [pathlib.Path(name).name for name in names([tmp_path], said)]
    assert found == ["1.2.840.113", "IM000001"]
    assert said == [f"skipped 5 files in {tmp_path} whose names are not those of images, DICOM or NIfTI files"]


def test_a_file_that_is_named_is_read_whatever_it_is_called(tmp_path, said):
    write(tmp_path, "notes.txt", ".hidden", content=b"12345678901234")
    found = list(inputs.expand([str(tmp_path / "notes.txt"), str(tmp_path / ".hidden")], left_out=said.append))
    assert [item.read(5) for item in found] == [b"12345", b"12345"]
    assert [item.size for item in found] == [14, 14]


def test_files_packed_by_gzip_are_looked_for_in_folders_and_zips(tmp_path, said):
    packed = ["a.dcm.gz", "b.NII.GZ", "c.IMA.gz"]
    write(tmp_path, *packed, "table.csv.gz")
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        for name in packed:
            archive.writestr(name, b"x")
    assert [pathlib.Path(name).name for name in names([tmp_path], said)] == packed
    assert [pathlib.Path(name).name for name in names([tmp_path / "x.zip"], said)] == packed


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_the_values_of_a_volume_in_two_files_are_named_as_such(tmp_path, said, suffix):
    write(tmp_path, f"a.img{suffix}", f"a.hdr{suffix}", f"disk.img{suffix}", content=b"0123456789")
    found = failures([tmp_path / f"a.img{suffix}", tmp_path / f"disk.img{suffix}"], said)
    assert list(found.values()) == [nifti.PAIR]
    assert found.keys() == {str(tmp_path / f"a.img{suffix}")}


def test_patterns(tmp_path, said, monkeypatch):
    write(tmp_path, "a/1.png", "a/2.png", "a/b/3.png", "a/[odd] name.png")
    monkeypatch.chdir(tmp_path)
    assert names(["a/*.png"], said) == ["a/1.png", "a/2.png", "a/[odd] name.png"]
    assert names(["**/3.png"], said) == ["a/b/3.png"]
    assert names(["a/[odd] name.png"], said) == ["a/[odd] name.png"]  # what is there is no pattern
    assert failures(["a/*.dcm"], said) == {"a/*.dcm": "no file matches this pattern"}


def test_what_cannot_be_read_is_a_failure_of_its_own(tmp_path, said):
    write(tmp_path, "a.png")
    (tmp_path / "empty").mkdir()
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "dangling.png").symlink_to("nowhere")
    paths = [tmp_path / name for name in ("absent.png", "a.png", "empty", "pipe.png", "dangling.png", "a.png/b.png")]
    assert list(failures([*paths, "/dev/zero"], said).values()) == [
        "there is no such file or folder",
        "it contains no images, DICOM files or NIfTI volumes",
        "it is not a regular file",
        "no such file or directory",
        "there is no such file or folder",
        "it is not a regular file",
    ]
    assert {name.rsplit("/", 1)[1] for name in failures([tmp_path], said)} == {"pipe.png", "dangling.png"}


def test_links_that_lead_back_end(tmp_path, said):
    write(tmp_path, "a/1.png", "b/2.png")
    (tmp_path / "a" / "up").symlink_to(tmp_path)
    (tmp_path / "b" / "other").symlink_to(tmp_path / "a")
    assert len(names([tmp_path], said)) == 2


def test_a_zip_is_a_folder(tmp_path, said):
    path = tmp_path / "archive.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("b.png", "a/1.jpg", "notes.txt", "__MACOSX/a.png", ".hidden.png", "folder/"):
            archive.writestr(name, name)
        archive.writestr("IM01", medical_files.dicom(hostile_inputs.scan()))
    found = list(inputs.expand([str(path)], left_out=said.append))
    assert [item.name for item in found] == [f"{path}/{name}" for name in ("IM01", "a/1.jpg", "b.png")]
    assert [item.read(3) for item in found[1:]] == [b"a/1", b"b.p"]
    assert said == [f"skipped 1 files in {path} whose names are not those of images, DICOM or NIfTI files"]


def test_damaged_zips(tmp_path, said):
    whole = tmp_path / "whole.zip"
    with zipfile.ZipFile(whole, "w") as archive:
        archive.writestr("a.png", bytes(3000))
    content = bytearray(whole.read_bytes())
    content[40] ^= 255  # in the file's bytes, whose checksum is then wrong
    (tmp_path / "flipped.zip").write_bytes(content)
    (tmp_path / "cut.zip").write_bytes(content[:100])
    (flipped,) = inputs.expand([str(tmp_path / "flipped.zip")], left_out=said.append)
    with pytest.raises(UnreadableError, match=r"from the zip archive \(BadZipFile\)"):
        flipped.read(10_000)
    assert failures([tmp_path / "cut.zip"], said) == {
        str(tmp_path / "cut.zip"): "the zip archive is damaged (BadZipFile)"
    }


def test_an_encrypted_zip_is_one_sentence(tmp_path, said):
    path = encrypted_zip.write(tmp_path / "all.zip", {"folder/": b"", "a.png": b"1", "b.png": b"2"})
    assert failures([path], said) == {
        str(path): "the zip archive is encrypted: unpack it with its password, and give the folder"
    }


def test_encrypted_files_beside_others_are_named(tmp_path, said):
    path = encrypted_zip.write(
        tmp_path / "some.zip", {"a.png": b"1", "b.png": b"2", "IM01": b"3"}, open_names=["b.png"]
    )
    found = {item.name: item for item in inputs.expand([str(path)], left_out=said.append)}
    assert found[f"{path}/b.png"].read(3) == b"2"
    for name in ("a.png", "IM01"):
        with pytest.raises(UnreadableError, match="it is encrypted in the zip archive: unpack it with its password"):
            found[f"{path}/{name}"].read(3)


def test_a_folder_is_not_listed_before_it_is_needed(tmp_path, said):
    write(tmp_path, "a/1.png", "b/2.png")
    found = inputs.expand([str(tmp_path)], left_out=said.append)
    next(found)
    write(tmp_path, "b/3.png")
    assert len(list(found)) == 2


def test_names_that_say_nothing_are_looked_into_in_folders_and_zips(tmp_path, said):
    """Windows saves JPEG files as .jfif (nomacs #627)."""
    jpeg = b"\xff\xd8\xff\xe0" + bytes(20)
    names_of_images = ("a.jfif", "b.JFIF", "c.jpg_large", "d.png")
    write(tmp_path, *(f"x/{name}" for name in names_of_images), content=jpeg)
    write(tmp_path, "x/sound.wav", content=b"RIFF" + bytes(20))
    write(tmp_path, "x/note.txt", content=b"BM is short for bone marrow")
    assert [pathlib.Path(name).name for name in names([tmp_path / "x"], said)] == list(names_of_images)
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        for file in sorted((tmp_path / "x").iterdir()):
            archive.write(file, file.name)
    assert [pathlib.Path(name).name for name in names([tmp_path / "x.zip"], said)] == list(names_of_images)
    assert [line.startswith("skipped 2 files in ") for line in said] == [True, True]


def test_files_of_the_operating_system_are_skipped(tmp_path, said):
    write(tmp_path, "a.png", "@eaDir/a.png/SYNOPHOTO_THUMB_M.jpg", "__MACOSX/a.png", "#recycle/b.png", "ehthumbs.db")
    assert names([tmp_path], said) == [str(tmp_path / "a.png")]
    assert said == []


def test_backslashes_and_repeated_members_of_a_zip(tmp_path, said):
    path = tmp_path / "windows.zip"
    with zipfile.ZipFile(path, "w") as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in ("scans\\", "scans\\1.png", "b.png", "b.png", "__MACOSX\\b.png"):
            archive.writestr(zipfile.ZipInfo(name), name)
    assert names([path], said) == [f"{path}/b.png", f"{path}/scans/1.png"]
