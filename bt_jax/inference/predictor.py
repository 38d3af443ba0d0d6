"""Predictions with one model or several: slices to probabilities, and what a person should be told beside them."""

import dataclasses
from collections.abc import Iterable, Sequence

import numpy as np

from bt_jax.common.errors import UsageError
from bt_jax.common.messages import Message
from bt_jax.data.augment.augment import Augmentation, augment, make_generator
from bt_jax.data.class_labels import SYNTHETIC_NOTICE
from bt_jax.data.io.slices import Slice
from bt_jax.data.preprocess import Preprocessing
from bt_jax.inference import ood, trained_model

# What differs between views of a slice for test-time augmentation: little, so that each is still a likely slice.
VIEWS = Augmentation(flip=True, rotation=0.02, zoom=0.05, shift=0.02)
MOST_VIEWS = 64

_SMALL = 64  # pixels; shorter sides are those of icons and thumbnails
_FLAT = 8 / 255  # of the range of 8 bits; less is compression noise
_UNSURE = 0.5

_NO_MAJORITY = Message("no_majority", "No class is more likely than all others together.")
_SYNTHETIC = Message("synthetic_model", "The model was trained on " + SYNTHETIC_NOTICE + ".")
_UNCALIBRATED = Message("uncalibrated", "The confidence is not calibrated.")


@dataclasses.dataclass(frozen=True)
class PreparedSlice:
    """A slice as the models will see it.

    Attributes:
      images: [S, S] uint8 for each of the predictor's ways of preprocessing.
      warnings: sentences that do not depend on what the models say.
      origin: [H, W] uint8 or uint16, the slice as it was read, where it is kept for an explanation.
    """

    images: tuple[np.ndarray, ...]
    warnings: tuple[str, ...]
    origin: np.ndarray | None = None


@dataclasses.dataclass(frozen=True)
class Prediction:
    """What is said about a slice.

    Attributes:
      label: name of the most probable class.
      confidence: its probability.
      probabilities: of all classes, in their order.
      warnings: sentences; empty where there is nothing to say.
      ood_score: distance from the training images, see `ood`; above 1 the class means
        nothing. None without an OOD model.
    """

    label: str
    confidence: float
    probabilities: dict[str, float]
    warnings: tuple[str, ...]
    ood_score: float | None = None


class Predictor:
    """One model, or several whose probabilities are averaged.

    Safe to share between threads.

    Args:
      models: at least one, all with the same classes.
      views: slightly turned, shifted and mirrored views of each slice whose probabilities are averaged, the slice as it
        is being the first.

    Raises:
      UsageError: models of different classes.
    """

    def __init__(self, models: Sequence[trained_model.TrainedModel], *, views: int = 1):
        first = models[0]
        for model in models[1:]:
            if model.class_names != first.class_names:
                raise UsageError(
                    f"--model names models of different classes: {', '.join(first.class_names)} and "
                    f"{', '.join(model.class_names)}"
                )
        self.models, self.views = tuple(models), views
        self.class_names = first.class_names
        self._preprocessings: tuple[Preprocessing, ...] = tuple(dict.fromkeys(m.preprocessing for m in models))
        self._always = _warn_about_models(models)

    @classmethod
    def load(cls, paths: Iterable[str], *, views: int = 1, batch_size: int = 32) -> "Predictor":
        """Loads models by what `--model` names, such as the workdir of a run.

        Raises:
          UsageError: no model there, or models of different classes.
        """
        return cls([trained_model.load(path, batch_size=batch_size) for path in paths], views=views)

    def prepare(self, slice_: Slice) -> PreparedSlice:
        """What is done with each slice before the models run; fit for many threads."""
        images = tuple(preprocessing(slice_.image) for preprocessing in self._preprocessings)
        return PreparedSlice(images, (*slice_.warnings, *_warn_about_image(slice_.image)))

    def predict(self, slices: Sequence[PreparedSlice], *, rows: int = 0) -> list[Prediction]:
        """Predictions for a batch, one for each slice.

        Args:
          slices: any number.
          rows: fills the batch up to so many, so that batches of any size share one compiled program.
        """
        if not slices:
            return []
        probabilities, ood_scores = self._compute(slices, max(rows, len(slices)))
        return [
            Prediction(
                label=self.class_names[int(of_slice.argmax())],
                confidence=float(of_slice.max()),
                probabilities=dict(zip(self.class_names, of_slice.tolist(), strict=True)),
                warnings=self.collect_warnings(prepared, of_slice, score),
                ood_score=score,
            )
            for prepared, of_slice, score in zip(slices, probabilities, ood_scores, strict=True)
        ]

    def collect_warnings(
        self, prepared: PreparedSlice, probabilities: np.ndarray, score: float | None
    ) -> tuple[str, ...]:
        """All that a person should be told beside the probabilities [classes] of a slice; first that it may be none."""
        unlike = (ood.make_warning(score),) if score is not None and score > 1 else ()
        unsure = (_NO_MAJORITY,) if probabilities.max() <= _UNSURE else ()
        return (*unlike, *self._always, *prepared.warnings, *unsure)

    def _compute(self, slices: Sequence[PreparedSlice], rows: int) -> tuple[np.ndarray, list[float | None]]:
        """Of N slices: probabilities [N, classes] float64, the mean over models and views, and OOD scores [N]."""
        total = np.zeros((rows, len(self.class_names)))
        scores: list[np.ndarray] = []  # of the slices as they are
        for number, preprocessing in enumerate(self._preprocessings):
            batch = np.zeros((rows, preprocessing.size, preprocessing.size), np.uint8)
            for view in range(self.views):
                for row, prepared in enumerate(slices):
                    batch[row] = _make_view(prepared.images[number], view)
                for model in self.models:
                    if model.preprocessing != preprocessing:
                        continue
                    outputs = model.predict(batch)
                    total += model.compute_probabilities(outputs.logits)
                    if outputs.ood_scores is not None and not view:
                        scores.append(outputs.ood_scores)
        count = len(slices)
        ood_scores = np.mean(scores, axis=0)[:count].tolist() if scores else [None] * count
        return total[:count] / (len(self.models) * self.views), ood_scores


def _make_view(image: np.ndarray, view: int) -> np.ndarray:
    """A view [S, S] uint8 of a preprocessed image: 0 is the image itself, the others are the same for all images."""
    if not view:
        return image
    seen = augment(image, generator=make_generator(seed=0, view=view, record=0), settings=VIEWS)
    return np.rint(seen * 255).astype(np.uint8)


def _warn_about_models(models: Sequence[trained_model.TrainedModel]) -> tuple[str, ...]:
    """What must be said of every answer of these models."""
    synthetic, uncalibrated = any(m.notice for m in models), any(model.temperature is None for model in models)
    return (*((_SYNTHETIC,) if synthetic else ()), *((_UNCALIBRATED,) if uncalibrated else ()))


def _warn_about_image(image: np.ndarray) -> tuple[str, ...]:
    """What is odd about a decoded image [H, W] uint8 or uint16."""
    found: list[str] = []
    height, width = image.shape
    if min(height, width) < _SMALL:
        text = "The image is small ({size} pixels): finer signs of a tumour cannot be seen."
        found.append(Message("small", text, size=f"{width}x{height}"))
    if image.max() == image.min() or (image.dtype == np.uint8 and np.ptp(image) <= _FLAT * 255):
        found.append(Message("blank", "The image is blank: its class means nothing."))
    return tuple(found)


def choose_rows(count: int, *, batch_size: int) -> int:
    """Rows of the program that serves a first batch of so many slices: one of a few sizes, each compiled once."""
    return min(batch_size, 1 if count <= 1 else 8 if count <= 8 else batch_size)
