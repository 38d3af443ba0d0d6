"""Shuffling of the training examples: the record at each position of the endless stream is a pure function.

The stream has no state. A run resumes at any step by seeking to it, and the batches are the same for any number of
workers.
"""

import dataclasses
import functools

import numpy as np

from bt_jax.common.errors import UsageError


@dataclasses.dataclass(frozen=True)
class Example:
    """A record in an epoch."""

    epoch: int
    record: int


@dataclasses.dataclass(frozen=True)
class Sampler:
    """Shuffles the records anew in each epoch, and cuts each epoch to whole batches.

    The records left out by the cut differ between epochs.
    """

    records: int
    batch_size: int
    seed: int

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise UsageError(f"config.train.batch_size is {self.batch_size}: use at least 1")
        if self.seed < 0:
            raise UsageError(f"config.seed is {self.seed}: use 0 or more")
        if self.records < self.batch_size:
            raise UsageError(
                f"config.train.batch_size is {self.batch_size}, but there are only {self.records} training images"
            )

    @property
    def steps_per_epoch(self) -> int:
        """Number of whole batches in an epoch."""
        return self.records // self.batch_size

    def __call__(self, position: int) -> Example:
        """Returns the example at a position, counted from 0 over all epochs."""
        epoch, offset = divmod(position, self.steps_per_epoch * self.batch_size)
        return Example(epoch=epoch, record=int(_permute(self.seed, epoch, self.records)[offset]))


@functools.lru_cache(maxsize=4)
def _permute(seed: int, epoch: int, records: int) -> np.ndarray:
    return np.random.default_rng([seed, epoch]).permutation(records)
