"""Reading of files in a zip from several threads and processes."""

import os
import pathlib
import threading
import zipfile
import zlib

from bt_jax.common.errors import UsageError

ENCRYPTED = "is encrypted: unpack it with its password, and give the folder"


class ZipReader:
    """Reads files of a zip by name.

    The zip is opened once, since each opening reads its directory, which takes 20 ms for 3,000 files. One thread reads
    at a time, as `zipfile` requires; the slow part, decoding, is done elsewhere. A forked process, or one that received
    a copy, opens the zip again, since forked processes share the position in the file.
    """

    def __init__(self, path: pathlib.Path):
        self.path = path
        self._lock = threading.Lock()
        self._archive: zipfile.ZipFile | None = None
        self._process = 0

    def __reduce__(self) -> tuple[type["ZipReader"], tuple[pathlib.Path]]:
        return ZipReader, (self.path,)

    def __call__(self, name: str) -> bytes:
        """Returns the content of a file.

        Raises:
          OSError: the zip is missing, or the file is damaged or compressed in an unsupported way.
          UsageError: files in the zip are encrypted.
        """
        try:
            with self._lock:
                return self._open().read(name)
        except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, NotImplementedError) as error:
            raise OSError(f"{name}: cannot be read from the zip: {error}") from error

    def _open(self) -> zipfile.ZipFile:
        if self._archive is None or self._process != os.getpid():
            self._archive, self._process = zipfile.ZipFile(self.path), os.getpid()
            if any(is_encrypted(member) for member in self._archive.infolist()):
                raise UsageError(f"{self.path} {ENCRYPTED}")
        return self._archive


def is_encrypted(member: zipfile.ZipInfo) -> bool:
    """Returns whether a file in a zip needs a password."""
    return bool(member.flag_bits & 1)
