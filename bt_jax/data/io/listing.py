"""Lists of the files in a folder or zip, by paths that can be printed, each file once."""

import dataclasses
import os
import pathlib
import stat
import zipfile
from collections.abc import Callable, Collection

from bt_jax.common.errors import UsageError
from bt_jax.data.io.file_names import is_hidden
from bt_jax.data.io.zip_files import ZipReader

_WINDOWS = 0  # of a zip's member: the system that wrote it


@dataclasses.dataclass(frozen=True)
class Listing:
    """The files of a folder or zip, without hidden ones and those of the operating system.

    Attributes:
      where: the folder or zip.
      title: its path as it can be printed.
      kind: `folder` or `zip`.
      names: path, relative and with forward slashes -> name to read the file by. Bytes of a path that are not UTF-8
        are written as `\\xf1`.
      folders: paths of the folders, some of which may be missing for a zip.
      linked: paths that are symbolic links to files.
      warnings: one line for each kind of entry that is left out.
      read_name: name -> content.
    """

    where: pathlib.Path
    title: str
    kind: str
    names: dict[str, str]
    folders: list[str]
    linked: frozenset[str]
    warnings: tuple[str, ...]
    read_name: Callable[[str], bytes]

    def read(self, path: str) -> bytes:
        """Returns the content of a file. Raises `OSError` if it cannot be read."""
        return self.read_name(self.names.get(path, path))

    def find_repeated(self, paths: Collection[str]) -> set[str]:
        """Returns the paths that are links to the same files as others of `paths`."""
        if not self.linked.intersection(paths):
            return set()
        parents: dict[str, str] = {}

        def resolve(path: str) -> str:
            file = self.where / self.names[path]
            if path in self.linked:
                return os.path.realpath(file)
            folder = str(file.parent)
            parents[folder] = parents.get(folder) or os.path.realpath(folder)
            return f"{parents[folder]}/{file.name}"

        seen: set[str] = set()
        repeated = set()
        for path in sorted(paths, key=lambda path: (path in self.linked, path)):
            real = resolve(path)
            if real in seen:
                repeated.add(path)
            seen.add(real)
        return repeated


def list_folder(where: pathlib.Path) -> Listing:
    """Lists a folder and those below it. Follows links, but lists each folder once, by its own path if it has one here.

    Raises:
      UsageError: a folder that cannot be listed.
    """
    names: dict[str, str] = {}
    folders: list[str] = []
    linked: set[str] = set()
    title = make_printable(str(where))
    waiting, links = [""], list[str]()  # folders to list; links to folders, which are followed when the rest is listed
    # A link to a folder above would bring in whatever else is there.
    seen = {(facts.st_dev, facts.st_ino) for facts in map(pathlib.Path.stat, where.resolve().parents)}
    repeated, special = list[str](), list[str]()
    while waiting or links:
        links.sort(reverse=True)
        name = waiting.pop() if waiting else links.pop()
        facts = (where / name).stat()
        if (facts.st_dev, facts.st_ino) in seen:
            repeated.append(name)
            continue
        seen.add((facts.st_dev, facts.st_ino))
        if name:
            folders.append(make_printable(name))
        try:
            entries = sorted(os.scandir(where / name), key=lambda entry: entry.name)
        except OSError as error:
            folder = make_printable(str(where / name))
            raise UsageError(f"{folder} cannot be listed ({error.strerror}): make it readable or remove it") from None
        for entry in entries:
            path = f"{name}/{entry.name}" if name else entry.name
            if is_hidden([entry.name]):
                continue
            if entry.is_dir():
                (links if entry.is_symlink() else waiting).append(path)
            elif entry.is_file() or entry.is_symlink():  # a broken link is reported as a file that cannot be read
                names.setdefault(make_printable(path), path)
                if entry.is_symlink():
                    linked.add(make_printable(path))
            else:
                special.append(path)
    warnings = [
        f"{what} in {title} ({len(found)}), such as {make_printable(found[0])}: left out"
        for found, what in (
            (repeated, "links that lead back or to folders that are counted already"),
            (special, "pipes or devices"),
        )
        if found
    ]
    return Listing(
        where=where,
        title=title,
        kind="folder",
        names=names,
        folders=folders,
        linked=frozenset(linked),
        warnings=tuple(warnings),
        read_name=lambda name: (where / name).read_bytes(),
    )


def list_zip(where: pathlib.Path) -> Listing:
    """Lists a zip. A member that occurs twice is listed once. Backslashes, as in zips of Windows, separate folders.

    No path leads out of the zip: nothing is unpacked, and `..` does not count.

    Raises:
      UsageError: a zip whose directory is damaged.
    """
    title = make_printable(str(where))
    try:
        with zipfile.ZipFile(where) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, NotImplementedError, ValueError) as error:
        raise UsageError(f"{title} is a damaged zip ({error}): download or pack it again") from None
    names: dict[str, str] = {}
    folders, links = list[str](), list[str]()
    for entry in entries:
        path = get_member_path(entry)
        if not path or is_hidden(path.rstrip("/").split("/")):
            continue
        if path.endswith("/"):
            folders.append(path.rstrip("/"))
        elif stat.S_ISLNK(entry.external_attr >> 16):
            links.append(path)
        else:
            names[path] = entry.filename
    return Listing(
        where=where,
        title=title,
        kind="zip",
        names=names,
        folders=folders,
        linked=frozenset(),
        warnings=(f"links in {title} ({len(links)}), such as {links[0]}: left out",) if links else (),
        read_name=ZipReader(where),
    )


def get_member_path(member: zipfile.ZipInfo) -> str:
    """Returns the path of a zip's member, relative and with forward slashes; that of a folder ends with one."""
    name = member.filename
    # Beside a slash, a backslash is an ordinary letter of a file name, except in what Windows wrote.
    if "/" not in name or member.create_system == _WINDOWS:
        name = name.replace("\\", "/")
    parts = [part for part in name.split("/") if part not in ("", ".", "..")]
    return "/".join(parts) + "/" * (name.endswith("/") and bool(parts))


def make_printable(path: str) -> str:
    """Returns a path with bytes that are not UTF-8 written as `\\xf1`."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")
