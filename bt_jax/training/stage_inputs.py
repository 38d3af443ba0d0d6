"""What the stages of a run work on: images, or cached features of the layers below the ones that they train."""

import dataclasses
from collections.abc import Callable, Generator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from bt_jax.data import pipeline
from bt_jax.data.pipeline import Batch
from bt_jax.data.sampler import Sampler
from bt_jax.distributed import sharding
from bt_jax.training.feature_cache import Cut, FeatureCache, Features
from bt_jax.training.stages import Stage
from bt_jax.training.train_state import TrainState
from bt_jax.workdir.run_folder import RunRecord

# The only view of the validation images: without augmentation.
_PLAIN = 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainingImages:
    """The training images of a run and how they become batches, see `pipeline.load_training_batches`.

    Attributes:
      images: [N, S, S] uint8, preprocessed.
      labels: [N] int32.
      sampler: which record stands where.
      views: different augmentations of an image; 0 draws a new one in every epoch.
      weights: [N] float32 of the images in the loss; None: all alike.
      workers: processes that load.
      threads: threads per process.
      rows: of each batch that this host loads; None: all.
      names: [N] of the images, for messages; None: their numbers.
    """

    images: np.ndarray
    labels: np.ndarray
    sampler: Sampler
    views: int
    weights: np.ndarray | None = None
    workers: int = 0
    threads: int = 2
    rows: np.ndarray | None = None
    names: Sequence[str] | None = None

    def open_batches(self, *, start_step: int, stop_step: int) -> Generator[Batch]:
        """Opens the batches of images of the steps `start_step` to `stop_step`."""
        return pipeline.load_training_batches(
            self.images,
            self.labels,
            sampler=self.sampler,
            views=self.views,
            start_step=start_step,
            stop_step=stop_step,
            weights=self.weights,
            workers=self.workers,
            threads=self.threads,
            rows=self.rows,
            names=self.names,
        )

    def open_feature_batches(
        self, features: Features, *, views: int, start_step: int, stop_step: int
    ) -> Generator[Batch]:
        """Opens batches of the same records in the same order, with features of so many views in place of images."""
        size = self.sampler.batch_size
        rows = np.arange(size) if self.rows is None else self.rows
        for step in range(start_step, stop_step):
            examples = [self.sampler(step * size + int(row)) for row in rows]
            records = [example.record for example in examples]
            view = examples[0].epoch % views  # no batch lies in two epochs
            weight = {} if self.weights is None else {"weight": self.weights[records]}
            yield {"features": features.get_rows(view, records), "label": self.labels[records], **weight}


class StageInputs:
    """What each stage trains on and is validated on, and the stream of device batches of the current stage.

    A stage whose program starts above frozen layers takes the features that these compute, once for the training
    images in some views and once for the validation images. All other stages take images. The order of the records is
    the same.

    Args:
      images: the training images.
      validation_images: [N, S, S] uint8, preprocessed.
      cache: of the features of the training images.
      cuts: where stages start from features, by `Stage.program_segment`, see `FeatureCache.choose_cuts`.
      mesh: the devices.
      steps: of the whole run.
      record: adds up the time spent on features.
    """

    def __init__(
        self,
        *,
        images: TrainingImages,
        validation_images: np.ndarray,
        cache: FeatureCache,
        cuts: Mapping[int, Cut],
        mesh: Mesh,
        steps: int,
        record: RunRecord,
    ):
        self._images, self._validation_images = images, validation_images
        self._cache, self._validation_cache = cache, cache.copy_for_plain(validation_images)
        self._cuts, self._steps, self._record = cuts, steps, record
        self._transfer = sharding.make_transfer(mesh)
        self._batches: Generator[Any] | None = None
        self._has_images = False
        self._held: tuple[Cut, np.ndarray] | None = None  # validation features of the cut that was used last

    def describe_batch(self, stage: Stage) -> dict[str, jax.ShapeDtypeStruct]:
        """Returns shapes and dtypes of a stage's batches, over all hosts."""
        size, cut = self._images.sampler.batch_size, self._cuts.get(stage.program_segment)
        if cut:
            batch = {"features": jax.ShapeDtypeStruct((size, *cut.shape), np.float32)}
        else:
            number = jax.ShapeDtypeStruct((size,), np.uint32)
            pixels = jax.ShapeDtypeStruct((size, *self._images.images.shape[1:]), np.uint8)
            batch = {"image": pixels, "view": number, "record": number}
        batch["label"] = jax.ShapeDtypeStruct((size,), np.int32)
        if self._images.weights is not None:
            batch["weight"] = jax.ShapeDtypeStruct((size,), np.float32)
        return batch

    def open(self, stage: Stage, state: TrainState, *, start: int, stop: int, interrupted: Callable[[], bool]) -> bool:
        """Opens the batches of the steps `start` to `stop`; False when `interrupted` became true meanwhile.

        A stream of images that the previous stage used goes on.
        """
        cut = self._cuts.get(stage.program_segment)
        if cut is None and self._has_images:
            return True
        self.close()
        if cut is None:
            source = self._images.open_batches(start_step=start, stop_step=self._steps)
        else:
            steps_per_epoch = self._images.sampler.steps_per_epoch
            epochs = range(start // steps_per_epoch, (stop - 1) // steps_per_epoch + 1)
            views = list(dict.fromkeys(epoch % self._cache.views for epoch in epochs))
            with self._record.time_phase("features"):
                features = self._cache.get_features(
                    cut, state.get_params(), state.batch_stats, views=views, interrupted=interrupted
                )
            if features is None:
                return False
            source = self._images.open_feature_batches(
                features, views=self._cache.views, start_step=start, stop_step=stop
            )
        self._batches, self._has_images = pipeline.prefetch(source, self._transfer), cut is None
        return True

    def __next__(self) -> Any:
        """Returns the device batch of the next step.

        It has `label` [B], either `image` [B, S, S], `view` [B] and `record` [B] or `features` [B, ...], and `weight`
        [B] where images have weights.
        """
        assert self._batches is not None  # opened before
        return next(self._batches)

    def close(self) -> None:
        """Closes the stream that is open."""
        if self._batches is not None:
            self._batches.close()
        self._batches, self._has_images = None, False

    def get_validation_inputs(self, stage: Stage, state: TrainState) -> tuple[str | None, np.ndarray]:
        """Returns the segment that a stage's validation starts from, and what that takes for each image.

        That is None and the images [N, S, S] uint8, or a segment's name and features [N, ...] float32. The features are
        computed once, from layers that no stage has trained so far.
        """
        cut = self._cuts.get(stage.program_segment)
        if cut is None:
            self._held = None
            return None, self._validation_images
        if self._held is None or self._held[0] != cut:
            found = self._validation_cache.get_features(
                cut, state.get_params(), state.batch_stats, views=(_PLAIN,), interrupted=lambda: False
            )
            assert found is not None  # not interrupted
            self._held = cut, np.concatenate(found.blocks[_PLAIN])
        return cut.name, self._held[1]
