"""Batches on their way to the devices. The only module that knows grain."""

import collections
import contextlib
import dataclasses
import itertools
from collections.abc import Callable, Generator
from typing import Any, TypeVar

import grain
import numpy as np

from bt_jax.data import augment
from bt_jax.data.order import Order
from bt_jax.data.views import Views
from bt_jax.errors import UsageError

Batch = dict[str, np.ndarray]
_T = TypeVar("_T")
_U = TypeVar("_U")


@dataclasses.dataclass(frozen=True)
class _Load:
    """The example at a position: augmented pixels, label, and weight where images have one."""

    view: Views
    labels: np.ndarray  # [N] int32
    weights: np.ndarray | None  # [N] float32
    order: Order
    views: int

    def __call__(self, position: int) -> dict[str, Any]:
        example = self.order(position)
        view = example.epoch % self.views if self.views else example.epoch
        weight = {} if self.weights is None else {"weight": self.weights[example.record]}
        image = self.view(view=view, record=example.record)
        return {"image": image, "label": self.labels[example.record], **weight}


def training_batches(
    images: np.ndarray,
    labels: np.ndarray,
    *,
    order: Order,
    settings: augment.Augmentation,
    views: int,
    start_step: int,
    stop_step: int,
    kinds: np.ndarray | None = None,
    weights: np.ndarray | None = None,
    workers: int = 0,
    threads: int = 2,
    buffered: int = 4,
    shard: tuple[int, int] = (0, 1),
) -> Generator[Batch]:
    """Augmented batches of the steps `start_step` to `stop_step`, the same for any number of workers and threads.

    Args:
      images: [N, S, S] uint8, preprocessed.
      labels: [N] int.
      order: which record stands where; holds the batch size (over all hosts) and the seed.
      settings: strength of each operation.
      views: number of different augmentations of a record; 0 draws a new one in every epoch.
      start_step: step of the first batch.
      stop_step: step after the last batch.
      kinds: [N] integers, see `views.Views`.
      weights: [N] float32 of the images in the loss; None: all alike.
      workers: processes that load; 0 loads in threads of this process, which is faster on few cores.
      threads: threads per process.
      buffered: batches held ready.
      shard: number of this host, and how many there are; a host yields its rows of each batch.

    Yields:
      `image` [B / hosts, S, S] float32 in [0, 1], `label` [B / hosts] int32 and, where images have weights, `weight`
      [B / hosts] float32.

    Raises:
      UsageError: at the first batch; a number below 0, or a batch that cannot be divided among the hosts.
    """
    for name, value in (("views", views), ("workers", workers), ("threads", threads)):
        if value < 0:
            raise UsageError(f"config.data.{name} is {value}: use 0 or more")
    host, hosts = shard
    if order.batch_size % hosts:
        raise UsageError(f"config.train.batch_size is {order.batch_size}: use a multiple of the {hosts} hosts")
    rows = order.batch_size // hosts
    view = Views(images=images, settings=settings, seed=order.seed, kinds=kinds)
    load = _Load(view, labels, weights, order, views)
    dataset = (
        grain.MapDataset.range(start_step * rows, stop_step * rows)
        .map(lambda i: load((i // rows) * order.batch_size + host * rows + i % rows))
        .batch(rows, drop_remainder=True)
        .to_iter_dataset(grain.ReadOptions(num_threads=threads, prefetch_buffer_size=buffered))
    )
    if workers:
        dataset = dataset.mp_prefetch(grain.MultiprocessingOptions(num_workers=workers))
    iterator = iter(dataset)
    try:
        yield from iterator
    finally:
        iterator.close()


def ahead(items: Generator[_T], transfer: Callable[[_T], _U], *, count: int = 2) -> Generator[_U]:
    """`transfer(item)` of each item, started `count` items before it is asked for: copies run while steps compute."""
    queue: collections.deque[_U] = collections.deque()
    with contextlib.closing(items):
        queue.extend(transfer(item) for item in itertools.islice(items, count))
        while queue:
            queue.extend(transfer(item) for item in itertools.islice(items, 1))
            yield queue.popleft()
