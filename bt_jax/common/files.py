"""Atomic writes: a reader sees the old content or the new content, never a part."""

import contextlib
import csv
import errno
import io
import json
import math
import os
import pathlib
import re
import shutil
import stat
import tempfile
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import IO, Any

from bt_jax.common import waiting
from bt_jax.common.errors import UsageError

Path = str | os.PathLike[str]

_DESCRIPTOR = re.compile(r"/(?:dev|proc/self|proc/thread-self)/fd/(\d+)")
_TEMPORARY = re.compile(r"\..*\.[0-9a-f]{32}(\..*)?", re.DOTALL)  # the name of a temporary file
_ERRORS_OF_WRITING = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EPIPE, errno.EBADF, errno.EROFS}
_LONGEST_STEM = 32  # characters of a name that its temporary file repeats: names are limited to 255 bytes
_MOST_LINKS = 40  # as Linux follows


@contextlib.contextmanager
def replace_atomically(path: Path) -> Iterator[pathlib.Path]:
    """Yields a temporary path and makes `path` the file with its content when the block succeeds.

    A regular file is replaced by renaming the temporary file, which is beside it. The target of a link is replaced, and
    the link stays. A device, a pipe or an open descriptor such as /dev/stdout gets the content when the block has
    succeeded, and stays what it is. So does a file that cannot be renamed over: one in a folder without write
    permission, or one that is mounted by itself.

    The temporary name keeps the suffix, since writers such as matplotlib choose the format by it. On an error, the
    temporary file is removed and `path` is unchanged.
    """
    with _name_file_in_errors(path), contextlib.ExitStack() as stack:
        target = _follow_links(path)
        folder = target.parent
        in_place = _must_write_in_place(target)
        if in_place:
            folder = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory()))
        else:
            folder.mkdir(parents=True, exist_ok=True)
        temporary = folder / f".{target.stem[:_LONGEST_STEM]}.{uuid.uuid4().hex}{target.suffix}"
        stack.callback(temporary.unlink, missing_ok=True)
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        if not in_place:
            try:
                temporary.replace(target)
                return
            except OSError as error:
                if error.errno != errno.EBUSY:  # a file that is mounted by itself, as containers do
                    raise
        with temporary.open("rb") as source, _open_in_place(target) as out:
            shutil.copyfileobj(source, out)


@contextlib.contextmanager
def open_output(path: Path) -> Iterator[IO[bytes]]:
    """Opens a file for writing that appears when the block succeeds, or what is at `path`: see `replace_atomically`.

    The reader of a device, pipe or descriptor gets what is written at every flush, not at the end.
    """
    if _must_write_in_place(target := _follow_links(path)):
        with _name_file_in_errors(path), _open_in_place(target) as file:
            yield file
        return
    with replace_atomically(target) as temporary, temporary.open("wb") as file:
        yield file


def check_output(path: Path, *, flag: str) -> None:
    """Checks that a file can be written, before the work that fills it.

    Raises:
      UsageError: it is a folder or `-`, or lies in a folder that cannot be made or written to.
    """
    target = _follow_links(path)
    if os.fspath(path) == "-":
        raise UsageError(f"--{flag} is '-': give a file name; that of the standard output is /dev/stdout")
    if target.is_dir():
        raise UsageError(f"--{flag} is {os.fspath(path)!r}, which is a folder: give a file name")
    if not _must_write_in_place(target):
        _check_folder(target.parent, f"--{flag} is {os.fspath(path)!r}")


def check_folder(folder: Path, *, flag: str) -> None:
    """Checks that a folder for output files is there or can be made, before the work that fills it.

    Raises:
      UsageError: it is something else, or cannot be made or written to.
    """
    named = f"--{flag} is {os.fspath(folder)!r}"
    if os.path.lexists(folder) and not pathlib.Path(folder).is_dir():
        what = "a file" if pathlib.Path(folder).is_file() else "not a folder"
        raise UsageError(f"{named}, which is {what}: give a folder")
    _check_folder(pathlib.Path(folder), named)


def _check_folder(folder: pathlib.Path, named: str) -> None:
    there = find_existing(folder)
    if not there.is_dir():
        raise UsageError(f"{named}, but {str(there)!r} is not a folder: choose another place")
    if not os.access(there, os.W_OK | os.X_OK):
        raise UsageError(f"{named}, but this user may not write to the folder {str(there)!r}: choose another place")


def check_utf8(folder: Path) -> None:
    """Checks the path of a folder that a library in C++ writes to or reads from: it takes UTF-8 alone.

    Raises:
      UsageError: the path has other bytes.
    """
    try:
        os.fspath(folder).encode()
    except UnicodeEncodeError:
        raise UsageError(f"the name of the folder {os.fspath(folder)!r} is not UTF-8: rename it") from None


def find_existing(path: Path) -> pathlib.Path:
    """Returns the path, or the nearest of the folders above it that exists."""
    absolute = pathlib.Path(path).absolute()
    return next(part for part in (absolute, *absolute.parents) if os.path.lexists(part))


def expand(path: Path) -> pathlib.Path:
    """Replaces `~` at the start of a path from a configuration or the environment by the home folder."""
    return pathlib.Path(os.path.expanduser(path))  # noqa: PTH111 - pathlib raises RuntimeError for an unknown user


def _follow_links(path: Path) -> pathlib.Path:
    """Returns the file that links lead to; for a descriptor, as in /dev/stdout or `>(...)`, a path of /dev/fd."""
    at = pathlib.Path(path)
    for _ in range(_MOST_LINKS):
        if found := _DESCRIPTOR.fullmatch(os.path.abspath(at)):  # noqa: PTH100 - `resolve` would follow the link
            return pathlib.Path(f"/dev/fd/{found[1]}")
        if not at.is_symlink():
            return at
        at = at.parent / at.readlink()
    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), os.fspath(path))


def _must_write_in_place(target: pathlib.Path) -> bool:
    """Returns whether a file is there that cannot or must not be replaced: see `replace_atomically`."""
    if _DESCRIPTOR.fullmatch(str(target)):
        return True
    try:
        mode = target.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return False
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(target))
    return not stat.S_ISREG(mode) or (os.access(target, os.W_OK) and not os.access(target.parent, os.W_OK))


def _open_in_place(target: pathlib.Path) -> IO[bytes]:
    """Opens a device, a pipe, a descriptor or a file for writing. A pipe without a reader is waited for."""
    if found := _DESCRIPTOR.fullmatch(str(target)):  # opened anew, a file would be cut, and a socket cannot be opened
        return os.fdopen(os.dup(int(found[1])), "wb")
    if target.is_fifo():
        with waiting.report(f"a reader of the pipe {target}"):
            return target.open("wb")
    return target.open("wb")


@contextlib.contextmanager
def _name_file_in_errors(path: Path) -> Iterator[None]:
    """Names the file in errors of writing: those of a full disk name none, others the temporary file."""
    try:
        yield
    except OSError as error:
        unnamed = error.filename is None and error.errno in _ERRORS_OF_WRITING
        if unnamed or (error.filename and _TEMPORARY.fullmatch(pathlib.Path(os.fsdecode(error.filename)).name)):
            raise OSError(error.errno, error.strerror, os.fspath(path)) from error
        raise


def write_bytes(path: Path, content: bytes) -> None:
    """Replaces `path` with `content` atomically."""
    with replace_atomically(path) as temporary:
        temporary.write_bytes(content)


def write_text(path: Path, content: str) -> None:
    """Replaces `path` with `content` in UTF-8 atomically."""
    write_bytes(path, content.encode())


def write_json(path: Path, content: Any) -> None:
    """Replaces `path` with `content` as indented JSON atomically. Non-finite numbers become null."""
    write_text(path, json.dumps(make_json_safe(content), indent=2, allow_nan=False, ensure_ascii=False) + "\n")


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Replaces `path` with a CSV table with the given header atomically."""
    write_text(path, format_csv(header, rows))


def read_csv(path: Path) -> list[dict[str, str]]:
    """Reads a CSV table with a header: one dict of strings for each row."""
    with pathlib.Path(path).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def format_csv(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Formats a CSV table with the given header."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return buffer.getvalue()


def make_json_safe(content: Any) -> Any:
    """Converts a nested structure to plain Python numbers, lists and dicts, with None for NaN and infinities."""
    if isinstance(content, Mapping):
        return {str(key): make_json_safe(value) for key, value in content.items()}
    if hasattr(content, "tolist"):  # NumPy and JAX arrays and scalars
        return make_json_safe(content.tolist())
    if isinstance(content, list | tuple):
        return [make_json_safe(value) for value in content]
    if isinstance(content, float) and not math.isfinite(content):
        return None
    return content
