"""Blocks of float32 values on disk, in entries that make room for each other."""

import contextlib
import os
import pathlib
import shutil
import zlib

import numpy as np

from bt_jax.common import files


class FeatureStore:
    """The files of an entry. What cannot be written stays in memory; `error` says why.

    Args:
      folder: of the entry; its neighbours are other entries.
    """

    def __init__(self, folder: pathlib.Path):
        self._folder = folder
        self.error: OSError | None = None
        with contextlib.suppress(OSError):  # not there yet, or another's
            os.utime(folder)  # used now

    def read(self, view: int, number: int, *, shape: tuple[int, ...]) -> np.ndarray | None:
        """Returns a block, mapped into memory; None if it is missing or damaged."""
        for path in sorted(self._folder.glob(f"{_build_name(view, number)}_*")):
            with contextlib.suppress(OSError, ValueError):  # removed meanwhile, or cut short
                block = np.memmap(path, np.float32, mode="r", shape=shape)
                if path == self._build_path(view, number, block) and path.stat().st_size == block.nbytes:
                    return block
        return None

    def write(self, view: int, number: int, block: np.ndarray) -> np.ndarray:
        """Writes a block and returns it mapped into memory."""
        path = self._build_path(view, number, block)
        try:
            files.write_bytes(path, block.tobytes())
            return np.memmap(path, np.float32, mode="r", shape=block.shape)
        except OSError as error:
            self.error = error
            return block

    def make_room(self, size: int) -> None:
        """Removes unfinished files here, and the oldest other entries until these take no more than `size` bytes."""
        with contextlib.suppress(OSError):  # another process removes the same, or they are not ours to remove
            for left in self._folder.glob(".*"):
                left.unlink()
            others = [entry for entry in self._folder.parent.iterdir() if entry.is_dir() and entry != self._folder]
            for entry in sorted(others, key=lambda entry: entry.stat().st_mtime, reverse=True):
                size -= sum(path.stat().st_size for path in entry.iterdir())
                if size < 0:
                    shutil.rmtree(entry)

    def _build_path(self, view: int, number: int, block: np.ndarray) -> pathlib.Path:
        return self._folder / f"{_build_name(view, number)}_{zlib.crc32(block.data):08x}.float32"


def _build_name(view: int, number: int) -> str:
    return f"view_{view:03}_part_{number:05}"
