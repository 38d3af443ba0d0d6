"""All images of a source, decoded once: preprocessed pixels in memory, with fingerprints and thumbnails."""

import concurrent.futures
import contextlib
import dataclasses
import math
import os
from collections.abc import Callable, Iterator, Sequence
from typing import cast

import numpy as np

from bt_jax.common import waiting
from bt_jax.common.errors import UsageError
from bt_jax.data import fingerprints, splits
from bt_jax.data.io.decode import ImageError, decode_image
from bt_jax.data.lazy_images import LazyImages
from bt_jax.data.preprocess import Preprocessing
from bt_jax.data.records import Index, Record, Records, Source

_NAMED = 10  # unreadable files named in an error message

# Cache of `cache_datasets`: data sets and messages about unreadable files, by source and preprocessing.
_cache: "dict[tuple[object, ...], tuple[Dataset, list[str]]] | None" = None
_CACHE_SIZE = 5  # data sets, of N x S x S bytes each


@dataclasses.dataclass(frozen=True)
class Dataset:
    """Images and what is known of them; every field has one entry per image.

    Attributes:
      records: path, label and split.
      images: [N, S, S] uint8, preprocessed: an array, or `LazyImages`, which are read on access.
      fingerprints: [N] hexadecimal hashes of the decoded pixels.
      thumbnails: [N, 2, 64, 64] uint8, to find near-duplicates; [0, 2, 64, 64] for data sets too large for that.
      sizes: [N, 2] int32, width and height of the decoded image.
      index: for lazy images, the index of their source.
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
        """[N] int32 class numbers."""
        return np.asarray(self.records.labels, np.int32)

    @property
    def paths(self) -> list[str]:
        """[N] paths relative to the data folder."""
        return list(self.records.paths)

    def select(self, rows: np.ndarray) -> "Dataset":
        """Returns the images given by row numbers or by a mask."""
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
        """Returns the images of `Training` or `Testing`."""
        return self.select(self.records.mask_split(split))


@contextlib.contextmanager
def cache_datasets() -> Iterator[None]:
    """Makes `load` cache the last five data sets, for several runs in one process.

    The files must not change while the block runs. Within another such block it does nothing.
    """
    global _cache
    if _cache is not None:
        yield
        return
    _cache = {}
    try:
        yield
    finally:
        _cache = None


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

    Images of a source with an index are read on access if they do not fit into `memory`.

    Args:
      source: the image files.
      preprocessing: to the size and form of the network's input.
      max_unreadable: number of unreadable files that may be left out.
      warn: called with one line for each file left out.
      threads: number of threads; None is one per core.
      memory: largest size of the preprocessed images in bytes, if the source has an index.

    Raises:
      UsageError: more unreadable files than allowed; the message names the first ones.
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
    if _cache is None:
        dataset, unreadable = _decode(source, preprocessing=preprocessing, threads=threads)
    else:
        if key not in _cache:
            while len(_cache) >= _CACHE_SIZE:
                del _cache[next(iter(_cache))]
            _cache[key] = _decode(source, preprocessing=preprocessing, threads=threads)
        dataset, unreadable = _cache[key]
    if len(unreadable) > max_unreadable:
        named = "; ".join(unreadable[:_NAMED]) + ("; ..." if len(unreadable) > _NAMED else "")
        raise UsageError(
            f"{len(unreadable)} of {len(source.records)} files are not readable images, but max_unreadable "
            f"(config.data.max_unreadable in training) allows {max_unreadable}: {named}"
        )
    for line in unreadable:
        warn(f"left out: {line}")
    return dataset


def _make_lazy(index: Index, images: LazyImages) -> Dataset:
    return Dataset(
        records=index.records,
        images=cast(np.ndarray, images),  # it supports the operations of an array that are used here
        fingerprints=index.fingerprints,
        thumbnails=index.thumbnails,
        sizes=index.sizes,
        index=index,
    )


def _decode(source: Source, *, preprocessing: Preprocessing, threads: int | None) -> "tuple[Dataset, list[str]]":
    """Decodes all readable images; returns them with one message for each unreadable file."""

    def decode_one(record: Record) -> tuple[np.ndarray, str, np.ndarray, tuple[int, ...]] | str:
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
    said = waiting.report(lambda: f"{len(kept) + len(unreadable):,} of {len(images):,} images read")
    with said, concurrent.futures.ThreadPoolExecutor(threads or os.cpu_count()) as pool:
        for record, result in zip(source.records, pool.map(decode_one, source.records), strict=True):
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
