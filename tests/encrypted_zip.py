"""Zips with encrypted files, which Python's `zipfile` reads and cannot write: the files are marked as encrypted."""

import pathlib
import struct
import zipfile
from collections.abc import Iterable, Mapping

_LOCAL, _CENTRAL = 6, 8  # offsets of the flags in a file's two headers


def write(path: pathlib.Path, contents: Mapping[str, bytes], *, open_names: Iterable[str] = ()) -> pathlib.Path:
    """Writes the files, all of them encrypted but those in `open_names`."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in contents.items():
            archive.writestr(name, content)
        members, central = archive.infolist(), archive.start_dir
    made = bytearray(path.read_bytes())
    at = made.index(b"PK\x01\x02", central)
    for member in members:
        if member.filename not in open_names and not member.is_dir():
            made[member.header_offset + _LOCAL] |= 1
            made[at + _CENTRAL] |= 1
        at += 46 + sum(struct.unpack_from("<3H", made, at + 28))
    path.write_bytes(made)
    return path
