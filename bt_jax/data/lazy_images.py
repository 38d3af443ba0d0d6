"""Preprocessed images that are read and decoded on access, as a replacement for an array in memory."""

import concurrent.futures
import os
from collections.abc import Callable

import numpy as np

from bt_jax.data.io.decode import ImageError, decode_image
from bt_jax.data.preprocess import Preprocessing
from bt_jax.data.records import StringArray


class LazyImages:
    """An array-like [N, S, S] uint8 with the operations that the pipeline and evaluation use. Thread-safe.

    It can be pickled if `read` can.
    """

    dtype = np.dtype(np.uint8)
    ndim = 3

    def __init__(
        self,
        read: Callable[[str], bytes],
        paths: StringArray,
        *,
        fingerprints: StringArray,
        preprocessing: Preprocessing,
        threads: int | None = None,
    ):
        """Stores the arguments; reads nothing yet.

        Args:
          read: path -> content of the file.
          paths: [N].
          fingerprints: [N], which identify the pixels without reading them.
          preprocessing: applied to each image.
          threads: number of threads that decode several images; None is one per core.
        """
        self._read, self._paths, self._fingerprints = read, paths, fingerprints
        self._preprocessing, self._threads = preprocessing, threads or os.cpu_count() or 1

    def __len__(self) -> int:
        return len(self._paths)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(N, S, S)."""
        return len(self), self._preprocessing.size, self._preprocessing.size

    @property
    def identity(self) -> np.ndarray:
        """Bytes that are equal only if all pixels are: [M] uint8."""
        settings = np.frombuffer(repr(self._preprocessing).encode(), np.uint8)
        return np.concatenate([np.ascontiguousarray(self._fingerprints.encoded).view(np.uint8).ravel(), settings])

    def select(self, rows: np.ndarray) -> "LazyImages":
        """Returns the images of some rows, without reading them."""
        return LazyImages(
            self._read,
            self._paths[rows],
            fingerprints=self._fingerprints[rows],
            preprocessing=self._preprocessing,
            threads=self._threads,
        )

    def __getitem__(self, rows: "int | np.integer | slice | np.ndarray") -> np.ndarray:
        """Returns [S, S] for one row, [M, S, S] for several."""
        if isinstance(rows, int | np.integer):
            return self._load_image(int(rows))
        numbers = np.arange(len(self))[rows].tolist()
        images = np.empty((len(numbers), *self.shape[1:]), np.uint8)
        with concurrent.futures.ThreadPoolExecutor(self._threads) as pool:
            for place, image in enumerate(pool.map(self._load_image, numbers)):
                images[place] = image
        return images

    def _load_image(self, row: int) -> np.ndarray:
        if not -len(self) <= row < len(self):
            raise IndexError(f"row {row} of {len(self)}")
        path = self._paths[row]
        try:
            return self._preprocessing(decode_image(self._read(path), name=path))
        except ImageError as error:
            raise OSError(f"{error}, although the file was readable when its data set was prepared") from error
