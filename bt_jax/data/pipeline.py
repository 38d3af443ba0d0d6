"""Loading of training batches. The only module that imports grain."""

import collections
import contextlib
import dataclasses
import itertools
import multiprocessing
import multiprocessing.connection
import os
import re
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import Any, TypeVar

import grain
import numpy as np

from bt_jax.common.errors import UsageError
from bt_jax.data.sampler import Sampler

Batch = dict[str, np.ndarray]
_FAILED = "cannot read "
_T = TypeVar("_T")
_U = TypeVar("_U")

SLOW_SECONDS = 60.0  # after which a loading image is reported; it usually takes milliseconds

# What each thread of this process is loading, and since when.
_loading: dict[int, tuple[str, float]] = {}
_watching = threading.Lock()
_reported: set[tuple[str, float]] = set()


@dataclasses.dataclass(frozen=True)
class _LoadBatch:
    """Loads the rows of a step's batch that this host holds."""

    images: Any  # [N, S, S] uint8, in memory or read on access
    labels: np.ndarray  # [N] int32
    weights: np.ndarray | None  # [N] float32
    sampler: Sampler
    views: int
    rows: np.ndarray  # [R]
    names: Sequence[str] | None  # [N]

    def __call__(self, step: int) -> Batch:
        examples = [self.sampler(step * self.sampler.batch_size + int(row)) for row in self.rows]
        records = np.array([example.record for example in examples], np.uint32)
        pixels = np.empty((len(records), *self.images.shape[1:]), np.uint8)
        for place, record in enumerate(records.tolist()):
            pixels[place] = self._load_image(record, step)
        epochs = [example.epoch % self.views if self.views else example.epoch for example in examples]
        weight = {} if self.weights is None else {"weight": self.weights[records]}
        return {
            "image": pixels,
            "view": np.array(epochs, np.uint32),
            "record": records,
            "label": self.labels[records],
            **weight,
        }

    def _load_image(self, record: int, step: int) -> np.ndarray:
        name = f"image {record}" if self.names is None else self.names[record]
        with track_loading(f"{name}, for step {step + 1}"):
            try:
                image: np.ndarray = self.images[record]
            except Exception as error:
                reason = " ".join(f"{type(error).__name__}: {error}".split())
                raise UsageError(f"{_FAILED}{name}: {reason}") from error
        return image


def load_training_batches(
    images: np.ndarray,
    labels: np.ndarray,
    *,
    sampler: Sampler,
    views: int,
    start_step: int,
    stop_step: int,
    weights: np.ndarray | None = None,
    workers: int = 0,
    threads: int = 2,
    buffered: int = 4,
    rows: Sequence[int] | np.ndarray | None = None,
    names: Sequence[str] | None = None,
) -> Generator[Batch]:
    """Loads the batches of the steps `start_step` to `stop_step`, the same for any number of workers and threads.

    A batch names the view of each image, which `augment.augment` computes from the pixels on the device.

    Args:
      images: [N, S, S] uint8, preprocessed.
      labels: [N] int.
      sampler: order of the records; holds the batch size (over all hosts) and the seed.
      views: number of different augmentations of a record; 0 draws a new one in each epoch.
      start_step: step of the first batch.
      stop_step: step after the last batch.
      weights: [N] float32, weights of the images in the loss; None: all 1.
      workers: number of loading processes; 0 loads in threads of this process, which is faster on few cores.
      threads: number of threads per process.
      buffered: number of prefetched batches.
      rows: rows of each batch that this host loads, R numbers in ascending order; None: all.
      names: [N] names of the images, for messages about failing or slow ones; None: their numbers.

    Yields:
      `image` [R, S, S] uint8, `view` and `record` [R] uint32, `label` [R] int32 and, if images have weights, `weight`
      [R] float32.

    Raises:
      UsageError: at the first batch, a negative number; later, an image that cannot be read, with its name.
    """
    for name, value in (("views", views), ("workers", workers), ("threads", threads)):
        if value < 0:
            raise UsageError(f"config.data.{name} is {value}: use 0 or more")
    held = np.arange(sampler.batch_size) if rows is None else np.asarray(rows)
    dataset = (
        grain.MapDataset.range(start_step, stop_step)
        .map(_LoadBatch(images, labels, weights, sampler, views, held, names))
        .to_iter_dataset(grain.ReadOptions(num_threads=threads, prefetch_buffer_size=buffered))
    )
    if workers:
        options = grain.MultiprocessingOptions(num_workers=workers)
        dataset = dataset.mp_prefetch(options, worker_init_fn=_exit_with_parent)
    iterator = iter(dataset)
    try:
        yield from iterator
    except Exception as error:  # grain adds lines to the message, and quotes the exception of a worker process
        told = re.search(rf"{_FAILED}.*", str(error))
        if told is None and not workers:
            raise
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise UsageError(told[0] if told else f"a process that loads images failed: {lines[-1]}") from error
    finally:
        iterator.close()


def _exit_with_parent(number: int, count: int) -> None:
    """Ends this worker process when its parent process ends; otherwise grain's workers would keep running."""
    del number, count
    parent = multiprocessing.parent_process()
    assert parent is not None

    def wait() -> None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def prefetch(items: Generator[_T], transfer: Callable[[_T], _U], *, count: int = 2) -> Generator[_U]:
    """Yields `transfer(item)` of each item, started `count` items ahead, so that copies overlap with computation."""
    queue: collections.deque[_U] = collections.deque()
    with contextlib.closing(items):
        queue.extend(transfer(item) for item in itertools.islice(items, count))
        while queue:
            queue.extend(transfer(item) for item in itertools.islice(items, 1))
            yield queue.popleft()


@contextlib.contextmanager
def track_loading(name: str) -> Iterator[None]:
    """Tracks that this thread is loading a record with this name, and reports it if that takes long."""
    if not _watching.locked() and _watching.acquire(blocking=False):
        threading.Thread(target=_watch, name="slow records", daemon=True).start()
    thread = threading.get_ident()
    _loading[thread] = name, time.monotonic()
    try:
        yield
    finally:
        del _loading[thread]


def list_overdue() -> list[str]:
    """Returns one line for each record that has been loading for more than `SLOW_SECONDS` and is not reported yet."""
    lines = []
    for what in list(_loading.values()):
        name, since = what
        if time.monotonic() - since > SLOW_SECONDS and what not in _reported:
            _reported.add(what)
            lines.append(
                f"warning: {name} has been loading for {time.monotonic() - since:.0f} s in process {os.getpid()}; "
                f"training waits for it"
            )
    return lines


def _watch() -> None:
    while True:
        time.sleep(min(1.0, SLOW_SECONDS / 4))
        for line in list_overdue():
            print(line, file=sys.stderr, flush=True)
