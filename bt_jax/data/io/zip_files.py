"""Files in a zip, read from several threads and processes."""

import os
import pathlib
import threading
import zipfile
import zlib


class ZipReader:
    """Reads files of a zip by name.

    The zip is opened once: its directory is read anew at every opening, 20 ms for 3,000 files and a minute for all of
    them. One thread reads at a time, as `zipfile` asks for; what takes long, decoding, is done elsewhere. A process
    that was forked or got a copy opens its own, as a forked one would share the place in the file.
    """

    def __init__(self, path: pathlib.Path):
        self.path = path
        self._lock = threading.Lock()
        self._archive: zipfile.ZipFile | None = None
        self._process = 0

    def __reduce__(self) -> tuple[type["ZipReader"], tuple[pathlib.Path]]:
        return ZipReader, (self.path,)

    def __call__(self, name: str) -> bytes:
        """The content of a file.

        Raises:
          OSError: the zip is gone, or the file is damaged, encrypted or compressed in a way that zipfile does not know.
        """
        try:
            with self._lock:
                return self._opened().read(name)
        except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, NotImplementedError) as error:
            raise OSError(f"{name}: cannot be read from the zip: {error}") from error

    def _opened(self) -> zipfile.ZipFile:
        if self._archive is None or self._process != os.getpid():
            self._archive, self._process = zipfile.ZipFile(self.path), os.getpid()
        return self._archive
