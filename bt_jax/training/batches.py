"""What the training loop is fed with, stage by stage: augmented images, or features that are kept."""

import contextlib
from collections.abc import Callable, Generator, Mapping
from typing import Any

import numpy as np

from bt_jax.data.pipeline import Batch, prefetch
from bt_jax.data.sampler import Sampler
from bt_jax.training.feature_cache import Cut, FeatureCache, Features
from bt_jax.training.stages import Stage
from bt_jax.training.train_state import TrainState


class Feed:
    """Device batches, in the same order of records whatever they are made of.

    Args:
      open_images: start_step=... -> batches with `image` and `label` from that step to the end of the plan.
      labels: [N] int32 of the training images.
      order: which record stands where.
      cache: of features.
      cuts: where stages start from features, by `Stage.program_segment`.
      transfer: from this host's rows of a batch to a device batch.
      timed: a context that takes the time of finding or computing features.
      weights: [N] float32 of the training images in the loss, as in `open_images`; None: all alike.
      rows: of each batch that this host loads, as in `open_images`; None: all.
    """

    def __init__(
        self,
        *,
        open_images: Callable[..., Generator[Batch]],
        labels: np.ndarray,
        order: Sampler,
        cache: FeatureCache,
        cuts: Mapping[int, Cut],
        transfer: Callable[[Batch], Any],
        timed: Callable[[], contextlib.AbstractContextManager[None]],
        weights: np.ndarray | None = None,
        rows: np.ndarray | None = None,
    ):
        self._open_images, self._labels, self._order = open_images, labels, order
        self._cache, self._cuts = cache, cuts
        self._transfer, self._timed, self._weights = transfer, timed, weights
        self._rows = np.arange(order.batch_size) if rows is None else rows
        self._batches: Generator[Any] | None = None
        self._has_images = False

    def open(self, stage: Stage, state: TrainState, *, start: int, stop: int, give_up: Callable[[], bool]) -> bool:
        """Gets ready the batches of the steps `start` to `stop`; False when `give_up` became true meanwhile.

        A stream of images that the stage before took its batches from goes on.
        """
        cut = self._cuts.get(stage.program_segment)
        if cut is None and self._has_images:
            return True
        self.close()
        if cut is None:
            source = self._open_images(start_step=start)
        else:
            epochs = range(start // self._order.steps_per_epoch, (stop - 1) // self._order.steps_per_epoch + 1)
            views = list(dict.fromkeys(epoch % self._cache.views for epoch in epochs))
            with self._timed():
                features = self._cache.features(cut, state.params, state.batch_stats, views=views, give_up=give_up)
            if features is None:
                return False
            source = self._feature_batches(features, start, stop)
        self._batches, self._has_images = prefetch(source, self._transfer), cut is None
        return True

    def __next__(self) -> Any:
        """The device batch of the next step: `label` [B], `image` [B, S, S] or `features` [B, ...], maybe `weight`."""
        assert self._batches is not None  # opened before
        return next(self._batches)

    def close(self) -> None:
        """Ends the stream that is open."""
        if self._batches is not None:
            self._batches.close()
        self._batches, self._has_images = None, False

    def _feature_batches(self, features: Features, start: int, stop: int) -> Generator[Batch]:
        size = self._order.batch_size
        for step in range(start, stop):
            examples = [self._order(step * size + int(row)) for row in self._rows]
            records = [example.record for example in examples]
            view = examples[0].epoch % self._cache.views  # no batch lies in two epochs
            weight = {} if self._weights is None else {"weight": self._weights[records]}
            yield {"features": features.rows(view, records), "label": self._labels[records], **weight}
