"""Checksums of the files in a folder, to detect files that differ from what was written."""

import json
import zlib
from collections.abc import Collection
from typing import Any

from etils import epath

FILE = "checksums.json"
_PART = 2**22  # bytes read at once


def seal(folder: epath.Path) -> None:
    """Writes the list of size and CRC-32 of every file below a complete folder. Replaces the list atomically."""
    names = [name for name in _list_files(folder) if name != FILE]
    content = {"schema": 1, "files": {name: _compute_checksum(folder / name) for name in sorted(names)}}
    beside = folder.parent / f".{folder.name}.{FILE}"
    beside.write_text(json.dumps(content), encoding="utf-8")
    beside.replace(folder / FILE)


def is_sealed(folder: epath.Path) -> bool:
    """Returns whether the folder has a list of checksums."""
    return (folder / FILE).exists()


def find_flaw(folder: epath.Path, *, parts: Collection[str] = ()) -> str | None:
    """Describes the first file of a sealed folder that is missing or changed; returns None if there is none.

    Args:
      folder: with a list of checksums.
      parts: first parts of the paths to check; empty: all.
    """
    try:
        listed: dict[str, Any] = json.loads((folder / FILE).read_bytes())["files"]
    except (OSError, ValueError, KeyError, TypeError):
        return f"{FILE} cannot be read"
    for name, expected in listed.items():
        if parts and name.partition("/")[0] not in parts:
            continue
        try:
            if _compute_checksum(folder / name) != expected:
                return f"{name} differs from what was written"
        except FileNotFoundError:
            return f"{name} is missing"
        except OSError as error:
            return f"{name} cannot be read ({error.strerror})"
    return None


def _list_files(folder: epath.Path, prefix: str = "") -> list[str]:
    found = []
    for path in folder.iterdir():
        if path.is_dir():
            found += _list_files(path, f"{prefix}{path.name}/")
        else:
            found.append(f"{prefix}{path.name}")
    return found


def _compute_checksum(path: epath.Path) -> list[int]:
    size = checksum = 0
    with path.open("rb") as file:
        while part := file.read(_PART):
            size, checksum = size + len(part), zlib.crc32(part, checksum)
    return [size, checksum]
