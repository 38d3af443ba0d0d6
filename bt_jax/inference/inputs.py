"""Expansion of the paths on the command line: files, folders, glob patterns and zip archives."""

import dataclasses
import glob
import os
import pathlib
import re
import stat
import threading
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator

from bt_jax.data.io import file_names, file_reader, listing, nifti
from bt_jax.data.io.slices import UnreadableError
from bt_jax.data.io.zip_files import ENCRYPTED, is_encrypted

_ZIP = b"PK\x03\x04"
_VALUES_OF_PAIR = re.compile(r"\.img(\.gz)?$", re.IGNORECASE)
_NOTHING = "it contains no images, DICOM files or NIfTI volumes"
_OTHERS = "skipped {} files in {} whose names are not those of images, DICOM or NIfTI files"


@dataclasses.dataclass(frozen=True)
class Input:
    """A file to read.

    Attributes:
      name: the path to show; for a member of a zip, the path of the zip and the member's.
      size: in bytes, as far as known.
      read: reads at most the given number of bytes; raises `OSError` or `UnreadableError`.
    """

    name: str
    size: int
    read: Callable[[int], bytes]


def expand(paths: Iterable[str], *, left_out: Callable[[str], None]) -> Iterator[Input]:
    """Yields the files that the paths stand for, in the order of the paths and, within a folder, of the names.

    Files that are named themselves are always read. In a folder or zip, a file is read if it has a suffix of an image,
    DICOM or NIfTI file. A file with another suffix, or none, is read if its content is recognised, unless the suffix
    is that of a known other kind. Hidden files and those of the operating system are skipped.

    Args:
      paths: files, folders, zip archives, or patterns such as `scans/**/*.png` that the shell has not expanded.
      left_out: called with one line for each folder or zip in which files were skipped.
    """
    for path in paths:
        if os.path.lexists(path):
            yield from _expand_path(path, left_out=left_out)
        elif glob.has_magic(path):
            found = sorted(glob.glob(path, recursive=True))  # noqa: PTH207 - pathlib knows no absolute patterns
            if not found:
                yield _make_failing_input(path, "no file matches this pattern")
            for name in found:
                if not pathlib.Path(name).is_dir():  # its files match the pattern themselves, or were not asked for
                    yield from _expand_path(name, left_out=left_out)
        else:
            yield _make_failing_input(path, "there is no such file or folder")


def _expand_path(path: str, *, left_out: Callable[[str], None]) -> Iterator[Input]:
    try:
        if pathlib.Path(path).is_dir():
            yield from _expand_folder(path, left_out=left_out)
        elif _read_start(path, len(_ZIP)) == _ZIP:
            yield from _expand_zip(path, left_out=left_out)
        else:
            yield _make_input(path)
    except (OSError, UnreadableError) as error:
        yield _make_failing_input(path, describe_error(error))


def _make_input(path: str) -> Input:
    header = _VALUES_OF_PAIR.sub(r".hdr\1", path)
    if header != path and pathlib.Path(header).is_file():
        return _make_failing_input(path, nifti.PAIR)
    return Input(path, pathlib.Path(path).stat().st_size, lambda most: _read_start(path, most))


def _expand_folder(path: str, *, left_out: Callable[[str], None]) -> Iterator[Input]:
    seen: set[tuple[int, int]] = set()
    wanted = others = 0
    failed: list[OSError] = []
    for folder, below, inside in os.walk(path, followlinks=True, onerror=failed.append):
        facts = pathlib.Path(folder).stat()
        if (facts.st_dev, facts.st_ino) in seen:  # a link to a folder above
            below.clear()
            continue
        seen.add((facts.st_dev, facts.st_ino))
        below[:] = sorted(name for name in below if not file_names.is_hidden([name]))
        for name in sorted(inside):
            file = str(pathlib.Path(folder) / name)
            try:
                kind = _is_wanted(name, lambda file=file: _read_start(file, file_reader.START))  # type: ignore[misc]
                if kind:
                    yield _make_input(file)
            except (OSError, UnreadableError) as error:
                kind = True
                yield _make_failing_input(file, describe_error(error))
            wanted += kind is True
            others += kind is False
    for unlisted in failed:
        yield _make_failing_input(str(unlisted.filename), describe_error(unlisted))
    if not wanted and not failed:
        yield _make_failing_input(path, _NOTHING)
    if others:
        left_out(_OTHERS.format(others, path))


def _expand_zip(path: str, *, left_out: Callable[[str], None]) -> Iterator[Input]:
    try:
        archive = zipfile.ZipFile(path)
    except (zipfile.BadZipFile, NotImplementedError, ValueError) as error:
        raise UnreadableError(f"the zip archive is damaged ({type(error).__name__})") from None
    held = [member for member in archive.infolist() if not member.is_dir()]
    if held and all(is_encrypted(member) for member in held):
        raise UnreadableError(f"the zip archive {ENCRYPTED}")
    lock = threading.Lock()  # readers share the archive's position in the file

    def read(member: zipfile.ZipInfo, most: int) -> bytes:
        if is_encrypted(member):
            raise UnreadableError("it is encrypted in the zip archive: unpack it with its password")
        try:
            with lock, archive.open(member) as file:
                return file.read(most)
        except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, NotImplementedError, ValueError) as error:
            raise UnreadableError(f"it cannot be read from the zip archive ({type(error).__name__})") from None

    wanted = others = 0
    members = {listing.get_member_path(member): member for member in archive.infolist()}
    for inside, member in sorted(members.items()):
        parts = inside.split("/")
        if inside.endswith("/") or file_names.is_hidden(parts):
            continue
        name = f"{path}/{inside}"
        try:
            kind = _is_wanted(parts[-1], lambda member=member: read(member, file_reader.START))  # type: ignore[misc]
            if kind:
                size = member.file_size
                yield Input(name, size, lambda most, member=member: read(member, most))  # type: ignore[misc]
        except UnreadableError as error:
            kind = True
            yield _make_failing_input(name, describe_error(error))
        wanted += kind is True
        others += kind is False
    if not wanted:
        yield _make_failing_input(path, _NOTHING)
    if others:
        left_out(_OTHERS.format(others, path))


def _is_wanted(name: str, start: Callable[[], bytes]) -> bool | None:
    """Returns whether to read a file of a folder; None for a file to skip without counting it."""
    if file_names.is_hidden([name]) or name.lower() == "dicomdir":
        return None
    suffix = pathlib.PurePath(name).suffix.lower()
    if suffix in file_reader.SUFFIXES or file_names.is_compressed_scan(name):
        return True
    # DICOM files are often named by a number, such as IM000001 or 1.2.840.113619.2.1, and JPEG files end with .jfif.
    return file_names.can_be_image(name) and file_reader.is_recognised(start())


def _read_start(path: str, most: int) -> bytes:
    """Reads the first bytes of a file, which must be a regular file: reading a pipe would block."""
    facts = pathlib.Path(path).stat()
    if not stat.S_ISREG(facts.st_mode):
        raise UnreadableError("it is not a regular file")
    with pathlib.Path(path).open("rb") as file:
        return file.read(min(most, facts.st_size))  # `read` allocates the requested size at once


def _make_failing_input(name: str, reason: str) -> Input:
    def read(most: int) -> bytes:
        raise UnreadableError(reason)

    return Input(name, 0, read)


def describe_error(error: OSError | UnreadableError) -> str:
    """Describes why a file cannot be read, without its path."""
    return (error.strerror or type(error).__name__).lower() if isinstance(error, OSError) else str(error)
