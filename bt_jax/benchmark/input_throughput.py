"""Measures the input pipeline: reading and preprocessing of files, batches, and each augmentation."""

import contextlib
import dataclasses
import functools
import time
from collections.abc import Callable, Generator
from typing import Any

import jax
import numpy as np

from bt_jax.data import dataset, pipeline
from bt_jax.data.augment.augment import compute_views
from bt_jax.data.augment.settings import Augmentation
from bt_jax.data.dataset import Dataset
from bt_jax.data.preprocess import Preprocessing
from bt_jax.data.sampler import Sampler
from bt_jax.data.sources import Source

# A turn times many more batches than are buffered, so it measures the steady state.
BUFFERED = 4
_AHEAD = 2
BATCHES_PER_TURN = 16

_SAMPLE = 32  # images on which an augmentation is timed
_ENDLESS = 10**6  # steps


def measure_decoding(
    source: Source, *, preprocessing: Preprocessing, max_unreadable: int, warn: Callable[[str], None]
) -> tuple[Dataset, float]:
    """Reads the training images of a source as training does; returns them, and the images per second."""
    training = source.select_split("Training")
    begin = time.perf_counter()
    images = dataset.load(training, preprocessing=preprocessing, max_unreadable=max_unreadable, warn=warn)
    return images, len(training.records) / (time.perf_counter() - begin)


@contextlib.contextmanager
def start_batches(
    images: Dataset, *, batch: int, workers: int, threads: int, sharding: Any
) -> Generator[Callable[[], float]]:
    """Yields a function that returns the seconds until `BATCHES_PER_TURN` batches are on the devices."""
    sampler = Sampler(records=len(images), batch_size=batch, seed=0)
    batches = pipeline.prefetch(
        pipeline.load_training_batches(
            images.images,
            images.labels,
            sampler=sampler,
            views=0,
            start_step=0,
            stop_step=_ENDLESS,
            workers=workers,
            threads=threads,
            buffered=BUFFERED,
        ),
        functools.partial(jax.device_put, device=sharding),
        count=_AHEAD,
    )

    def turn() -> float:
        for _ in range(BUFFERED + _AHEAD):  # buffered between the turns
            jax.block_until_ready(next(batches))
        begin = time.perf_counter()
        for _ in range(BATCHES_PER_TURN):
            jax.block_until_ready(next(batches))
        return time.perf_counter() - begin

    with contextlib.closing(batches):
        yield turn


def make_augmentation_turns(images: np.ndarray, augmentation: Augmentation) -> dict[str, Callable[[], float]]:
    """Returns, for each augmentation alone, a function that measures its seconds per image on the first device.

    Adds `none` and `all`. `none` has the conversion to float32, which every other number includes. All geometric
    operations together are one warp, so the sum of the parts exceeds `all`.

    Args:
      images: [N, S, S] uint8.
      augmentation: as configured; operations that are off are skipped.
    """
    values = {name: value for name, value in dataclasses.asdict(augmentation).items() if value}
    settings = {
        "none": Augmentation(),
        **{name: Augmentation(**{name: value}) for name, value in values.items()},
        "all": augmentation,
    }
    sample = np.resize(images[:_SAMPLE], (_SAMPLE, *images.shape[1:]))
    numbers = np.arange(_SAMPLE, dtype=np.uint32)

    def turn(setting: Augmentation) -> float:
        compute = functools.partial(compute_views, *placed, seed=0, settings=setting)
        jax.block_until_ready(compute())  # compiles, in the first turn
        begin = time.perf_counter()
        jax.block_until_ready(compute())
        return (time.perf_counter() - begin) / _SAMPLE

    placed = jax.device_put((sample, np.zeros_like(numbers), numbers), jax.devices()[0])
    return {name: functools.partial(turn, setting) for name, setting in settings.items()}
