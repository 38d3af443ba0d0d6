"""All images of a source, decoded once: preprocessed pixels in memory, and what identifies each image."""

import concurrent.futures
import contextlib
import dataclasses
import math
import os
from collections.abc import Callable, Iterator, Sequence
from typing import cast

import numpy as np

from bt_jax.common.errors import UsageError
from bt_jax.data import fingerprints, splits
from bt_jax.data.io.decode import ImageError, decode_image
from bt_jax.data.lazy_images import LazyImages
from bt_jax.data.preprocess import Preprocessing
from bt_jax.data.records import Index, Record, Records, Source

_NAMED = 10  # files named in a message, the rest counted

# What `cache_datasets` keeps: by source and preprocessing the rows, and the messages about files that cannot be read.
_memory: "dict[tuple[object, ...], tuple[Dataset, list[str]]] | None" = None
_REMEMBERED = 5  # data sets; each is N x S x S bytes


@dataclasses.dataclass(frozen=True)
class Dataset:
    """Rows of images; every field has one entry per row.

    Attributes:
      records: path, label and split.
      images: [N, S, S] uint8, preprocessed: an array, or `LazyImages`, which are read when they are asked for.
      fingerprints: [N] hexadecimal hashes of the decoded pixels.
      thumbnails: [N, 2, 64, 64] uint8, for finding twins; [0, 2, 64, 64] where the images are too many for that.
      sizes: [N, 2] int32, width and height of the decoded image.
      index: of lazy images, what their source knows of them.
    """

    records: Records
    images: np.ndarray
    fingerprints: Sequence[str]
    thumbnails: np.ndarray
    sizes: np.ndarray
    index: Index | None = None

    def __len__(self) -> int:
        return len(self.records)

    @property
    def labels(self) -> np.ndarray:
        """[N] int32."""
        return np.asarray(self.records.labels, np.int32)

    @property
    def paths(self) -> list[str]:
        """[N], relative to the data folder."""
        return list(self.records.paths)

    def select(self, rows: np.ndarray) -> "Dataset":
        """The rows given by number or by a mask."""
        rows = np.flatnonzero(rows) if rows.dtype == bool else rows
        if self.index is not None:
            return _make_lazy(self.index[rows], cast(LazyImages, self.images).select(rows))
        return Dataset(
            records=self.records[rows],
            images=self.images[rows],
            fingerprints=tuple(self.fingerprints[i] for i in rows.tolist()),
            thumbnails=self.thumbnails[rows],
            sizes=self.sizes[rows],
        )

    def select_split(self, split: str) -> "Dataset":
        """The rows of `Training` or `Testing`."""
        return self.select(self.records.mask_split(split))


@contextlib.contextmanager
def cache_datasets() -> Iterator[None]:
    """For several runs in one process: `load` decodes a source once for each preprocessing, and keeps the last five.

    The files must stay as they are while the block runs.
    """
    global _memory
    _memory = {}
    try:
        yield
    finally:
        _memory = None


def load(
    source: Source,
    *,
    preprocessing: Preprocessing,
    max_unreadable: int,
    warn: Callable[[str], None],
    threads: int | None = None,
    memory: float = math.inf,
) -> Dataset:
    """Reads, decodes and preprocesses all images of a source, in parallel.

    Where they are too many for that, and the source has an index, they are read when they are asked for.

    Args:
      source: where they are.
      preprocessing: to the size and form that the network sees.
      max_unreadable: files that may be left out because they are not readable images.
      warn: called with one line for each file left out.
      threads: None is one per core.
      memory: bytes that the preprocessed images may take, if they can be read later.

    Raises:
      UsageError: more unreadable files than allowed; names the first ones.
    """
    if source.index is not None:
        count, size = len(source.records), preprocessing.size
        if count > splits.MAX_COMPARED or count * size * size > memory:
            images = LazyImages(
                source.read,
                source.index.records.paths,
                fingerprints=source.index.fingerprints,
                preprocessing=preprocessing,
                threads=threads,
            )
            return _make_lazy(source.index, images)
    key = (source.description, source.class_names, tuple(source.records), preprocessing)
    if _memory is None:
        dataset, unreadable = _decode(source, preprocessing=preprocessing, threads=threads)
    else:
        if key not in _memory:
            while len(_memory) >= _REMEMBERED:
                del _memory[next(iter(_memory))]
            _memory[key] = _decode(source, preprocessing=preprocessing, threads=threads)
        dataset, unreadable = _memory[key]
    if len(unreadable) > max_unreadable:
        named = "; ".join(unreadable[:_NAMED]) + ("; ..." if len(unreadable) > _NAMED else "")
        raise UsageError(
            f"{len(unreadable)} of {len(source.records)} files are not readable images, "
            f"max_unreadable (config.data.max_unreadable in training) allows {max_unreadable}: {named}"
        )
    for line in unreadable:
        warn(f"left out: {line}")
    return dataset


def _make_lazy(index: Index, images: LazyImages) -> Dataset:
    return Dataset(
        records=index.records,
        images=cast(np.ndarray, images),  # of which it does what is asked of one here
        fingerprints=index.fingerprints,
        thumbnails=index.thumbnails,
        sizes=index.sizes,
        index=index,
    )


def _decode(source: Source, *, preprocessing: Preprocessing, threads: int | None) -> "tuple[Dataset, list[str]]":
    """The rows that can be read, and a message for each file that cannot."""

    def one(record: Record) -> tuple[np.ndarray, str, np.ndarray, tuple[int, ...]] | str:
        try:
            image = decode_image(source.read(record.path), name=record.path)
        except (ImageError, OSError) as error:
            return str(error)
        return (
            preprocessing(image),
            fingerprints.fingerprint(image),
            fingerprints.make_thumbnails(image),
            image.shape[::-1],
        )

    size = preprocessing.size
    images = np.empty((len(source.records), size, size), np.uint8)
    small = np.empty((len(source.records), 2, fingerprints.THUMBNAIL_SIZE, fingerprints.THUMBNAIL_SIZE), np.uint8)
    sizes = np.empty((len(source.records), 2), np.int32)
    hashes: list[str] = []
    kept: list[Record] = []
    unreadable: list[str] = []
    with concurrent.futures.ThreadPoolExecutor(threads or os.cpu_count()) as pool:
        for record, result in zip(source.records, pool.map(one, source.records), strict=True):
            if isinstance(result, str):
                unreadable.append(result)
                continue
            images[len(kept)], small[len(kept)], sizes[len(kept)] = result[0], result[2], result[3]
            hashes.append(result[1])
            kept.append(record)
    dataset = Dataset(
        records=Records.from_rows(kept),
        images=images[: len(kept)],
        fingerprints=tuple(hashes),
        thumbnails=small[: len(kept)],
        sizes=sizes[: len(kept)],
    )
    return dataset, unreadable
