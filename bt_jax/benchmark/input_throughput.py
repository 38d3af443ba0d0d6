"""How fast images come in: reading and preprocessing of files, augmented batches, and what each augmentation costs."""

import contextlib
import dataclasses
import functools
import time
from collections.abc import Callable, Generator
from typing import Any

import jax
import numpy as np

from bt_jax.data import dataset, pipeline
from bt_jax.data.augment.augment import Augmentation
from bt_jax.data.augment.views import Views
from bt_jax.data.dataset import Dataset
from bt_jax.data.preprocess import Preprocessing
from bt_jax.data.sampler import Sampler
from bt_jax.data.sources import Source

# Batches that may wait ready-made, and those timed in a turn: many more, so that a turn tells of a steady flow.
BUFFERED = 4
_AHEAD = 2
BATCHES_PER_TURN = 16

_SAMPLE = 32  # images that an augmentation is timed on
_ENDLESS = 10**6  # steps


def measure_decoding(
    source: Source, *, preprocessing: Preprocessing, max_unreadable: int, warn: Callable[[str], None]
) -> tuple[Dataset, float]:
    """The training images of a source, as training reads them at its start, and images per second."""
    training = source.select_split("Training")
    begin = time.perf_counter()
    images = dataset.load(training, preprocessing=preprocessing, max_unreadable=max_unreadable, warn=warn)
    return images, len(training.records) / (time.perf_counter() - begin)


@contextlib.contextmanager
def start_batches(
    images: Dataset, *, batch: int, augmentation: Augmentation, workers: int, threads: int, sharding: Any
) -> Generator[Callable[[], float]]:
    """Yields a turn: the seconds that `BATCHES_PER_TURN` augmented batches take to come to the devices."""
    sampler = Sampler(records=len(images), batch_size=batch, seed=0)
    batches = pipeline.prefetch(
        pipeline.load_training_batches(
            images.images,
            images.labels,
            sampler=sampler,
            settings=augmentation,
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
        for _ in range(BUFFERED + _AHEAD):  # made while nobody looked
            jax.block_until_ready(next(batches))
        begin = time.perf_counter()
        for _ in range(BATCHES_PER_TURN):
            jax.block_until_ready(next(batches))
        return time.perf_counter() - begin

    with contextlib.closing(batches):
        yield turn


def make_augmentation_turns(images: np.ndarray, augmentation: Augmentation) -> dict[str, Callable[[], float]]:
    """Turns by operation that is on alone, besides `none` and `all`: seconds for one image, on one thread.

    `none` is the random draws and the conversion to float32, which are in every other number too. Operations of
    geometry are one warp together, so the sum of the parts is more than `all`. What is applied to every second image
    costs twice as much where it is.

    Args:
      images: [N, S, S] uint8.
      augmentation: as configured; what is off is left out.
    """
    values = {name: value for name, value in dataclasses.asdict(augmentation).items() if value}
    settings = {
        "none": Augmentation(),
        **{name: Augmentation(**{name: value}) for name, value in values.items()},
        "all": augmentation,
    }
    sample = images[:_SAMPLE]

    def turn(setting: Augmentation) -> float:
        views = Views(images=sample, settings=setting, seed=0)
        begin = time.perf_counter()
        for record in range(len(sample)):
            views(view=0, record=record)
        return (time.perf_counter() - begin) / len(sample)

    return {name: functools.partial(turn, setting) for name, setting in settings.items()}
