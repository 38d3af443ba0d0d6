"""Predictions with one or several models: from slices to probabilities and the warnings that go with them."""

import dataclasses
from collections.abc import Iterable, Sequence

import numpy as np

from bt_jax.common import waiting
from bt_jax.common.errors import UsageError
from bt_jax.common.messages import Message
from bt_jax.data.augment.settings import Augmentation
from bt_jax.data.class_labels import SYNTHETIC_NOTICE
from bt_jax.data.io.slices import Slice
from bt_jax.data.preprocess import Preprocessing
from bt_jax.inference import heat_map, loading, onnx_engine, ood, trained_model
from bt_jax.metrics.selective import ConfidenceLimit

# Test-time augmentation: weak enough that each view is still a plausible slice.
VIEWS = Augmentation(flip=True, rotation=0.02, zoom=0.05, shift=0.02)
MOST_VIEWS = 64

_SMALL = 64  # pixels; images with a shorter side are icons and thumbnails
_FLAT = 8 / 255  # fraction of the 8-bit range; less contrast than this is compression noise
_UNSURE = 0.5

_NO_MAJORITY = Message("no_majority", "No class has a probability above 50%.")
_SYNTHETIC = Message("synthetic_model", "The model was trained on " + SYNTHETIC_NOTICE + ".")
_UNCALIBRATED = Message("uncalibrated", "The confidence is not calibrated.")


@dataclasses.dataclass(frozen=True)
class PreparedSlice:
    """A slice after preprocessing.

    Attributes:
      images: [S, S] uint8, one for each of the predictor's preprocessings.
      warnings: those that do not depend on the prediction.
      origin: [H, W] uint8 or uint16, the slice as it was read, if it is kept for a heat map.
    """

    images: tuple[np.ndarray, ...]
    warnings: tuple[str, ...]
    origin: np.ndarray | None = None


@dataclasses.dataclass(frozen=True)
class Prediction:
    """Prediction for a slice.

    Attributes:
      label: name of the most probable class.
      confidence: its probability.
      probabilities: of all classes, in class order.
      warnings: sentences, possibly none.
      ood_score: distance from the training images, see `ood`; above 1 the class means
        nothing. None without an OOD model.
    """

    label: str
    confidence: float
    probabilities: dict[str, float]
    warnings: tuple[str, ...]
    ood_score: float | None = None


class Predictor:
    """Predicts with one model, or averages the probabilities of several. Thread-safe.

    Args:
      models: at least one, all with the same classes.
      views: number of views of each slice to average over (test-time augmentation). The first view is the slice itself,
        the others are slightly rotated, shifted, scaled and mirrored.

    Raises:
      UsageError: the models have different classes.
    """

    def __init__(self, models: Sequence[trained_model.TrainedModel], *, views: int = 1):
        first = models[0]
        for model in models[1:]:
            if model.class_names != first.class_names:
                raise UsageError(
                    f"the models given as --model have different classes: {', '.join(first.class_names)} and "
                    f"{', '.join(model.class_names)}"
                )
        self.models, self.views = tuple(models), views
        self.class_names = first.class_names
        self._preprocessings: tuple[Preprocessing, ...] = tuple(dict.fromkeys(m.preprocessing for m in models))
        self._always = _warn_about_models(models)
        # It was measured with this model alone, and without further views.
        self._limit = first.confidence_limit if len(models) == views == 1 else None

    @classmethod
    def load(
        cls, paths: Iterable[str], *, views: int = 1, batch_size: int = 32, engine: str = onnx_engine.AUTO
    ) -> "Predictor":
        """Loads the models that `--model` names, such as the workdir of a run; see `loading.load`.

        Raises:
          UsageError: a path holds no model, or the models have different classes.
        """
        paths = list(paths)
        loading.check_engine(engine, paths)
        models = []
        for path in paths:
            with waiting.report(f"loading {path}"):
                models.append(loading.load(path, batch_size=batch_size, engine=engine))
        return cls(models, views=views)

    @property
    def engines(self) -> tuple[str, ...]:
        """What computes the models, one for each."""
        return tuple(model.engine for model in self.models)

    @property
    def methods(self) -> tuple[str, ...]:
        """Methods for heat maps that all models have, some of `heat_map.METHODS`."""
        return tuple(method for method in heat_map.METHODS if all(method in model.methods for model in self.models))

    def prepare(self, slice_: Slice) -> PreparedSlice:
        """Preprocesses a slice. Thread-safe."""
        images = tuple(preprocessing(slice_.image) for preprocessing in self._preprocessings)
        return PreparedSlice(images, (*slice_.warnings, *_warn_about_image(slice_.image)))

    def predict(self, slices: Sequence[PreparedSlice], *, rows: int = 0) -> list[Prediction]:
        """Predicts a batch of slices.

        Args:
          slices: any number of slices.
          rows: pads the batch to this size, so that batches of different sizes share one compiled program; ignored if
            nothing is compiled.
        """
        if not slices:
            return []
        compiled = self.views > 1 or any(model.compiled for model in self.models)
        probabilities, ood_scores = self._compute(slices, max(rows, len(slices)) if compiled else len(slices))
        return [
            Prediction(
                label=self.class_names[int(row.argmax())],
                confidence=float(row.max()),
                probabilities=dict(zip(self.class_names, row.tolist(), strict=True)),
                warnings=self.collect_warnings(prepared, row, score),
                ood_score=score,
            )
            for prepared, row, score in zip(slices, probabilities, ood_scores, strict=True)
        ]

    def collect_warnings(
        self, prepared: PreparedSlice, probabilities: np.ndarray, score: float | None
    ) -> tuple[str, ...]:
        """Collects the warnings for a slice with these probabilities [classes]; the OOD warning comes first."""
        out_of_distribution = (ood.make_warning(score),) if score is not None and score > 1 else ()
        return (*out_of_distribution, *self._always, *prepared.warnings, *self._warn_about_confidence(probabilities))

    def _warn_about_confidence(self, probabilities: np.ndarray) -> tuple[str, ...]:
        confidence = float(probabilities.max())
        if confidence <= _UNSURE:
            return (_NO_MAJORITY,)
        if self._limit is not None and confidence < self._limit.value:
            return (_make_limit_warning(self._limit),)
        return ()

    def _compute(self, slices: Sequence[PreparedSlice], rows: int) -> tuple[np.ndarray, list[float | None]]:
        """Computes probabilities [N, classes] float64, the mean over models and views, and OOD scores [N]."""
        total = np.zeros((rows, len(self.class_names)))
        scores: list[np.ndarray] = []  # of the first view only
        for number, preprocessing in enumerate(self._preprocessings):
            batch = np.zeros((rows, preprocessing.size, preprocessing.size), np.uint8)
            for row, prepared in enumerate(slices):
                batch[row] = prepared.images[number]
            for view in range(self.views):
                seen = _compute_view(batch, view)
                for model in self.models:
                    if model.preprocessing != preprocessing:
                        continue
                    outputs = model.predict(seen)
                    total += model.compute_probabilities(outputs.logits)
                    if outputs.ood_scores is not None and not view:
                        scores.append(outputs.ood_scores)
        count = len(slices)
        ood_scores = np.mean(scores, axis=0)[:count].tolist() if scores else [None] * count
        return total[:count] / (len(self.models) * self.views), ood_scores


def _make_limit_warning(limit: ConfidenceLimit) -> Message:
    return Message(
        "low_confidence",
        "The confidence is below {limit}%. On images that were held out, {accuracy}% of the answers without such a "
        "warning were right.",
        limit=round(100 * limit.value),
        accuracy=round(100 * limit.accuracy, 1),
    )


def _compute_view(images: np.ndarray, view: int) -> np.ndarray:
    """Computes a view of preprocessed images [N, S, S] uint8: 0 is the image, the others move all images alike."""
    if not view:
        return images
    from bt_jax.data.augment.augment import compute_views  # most predictions need no view but the first

    numbers = np.full(len(images), view, np.uint32), np.zeros(len(images), np.uint32)
    return np.rint(255 * np.asarray(compute_views(images, *numbers, seed=0, settings=VIEWS))).astype(np.uint8)


def _warn_about_models(models: Sequence[trained_model.TrainedModel]) -> tuple[str, ...]:
    """Makes the warnings that apply to every prediction of these models."""
    synthetic, uncalibrated = any(m.notice for m in models), any(model.temperature is None for model in models)
    return (*((_SYNTHETIC,) if synthetic else ()), *((_UNCALIBRATED,) if uncalibrated else ()))


def _warn_about_image(image: np.ndarray) -> tuple[str, ...]:
    """Makes the warnings about a decoded image [H, W] uint8 or uint16."""
    found: list[str] = []
    height, width = image.shape
    if min(height, width) < _SMALL:
        text = "The image is small ({size} pixels): fine signs of a tumour are not visible."
        found.append(Message("small", text, size=f"{width}x{height}"))
    if image.max() == image.min() or (image.dtype == np.uint8 and np.ptp(image) <= _FLAT * 255):
        found.append(Message("blank", "The image is blank, so its class is not meaningful."))
    return tuple(found)


def choose_rows(count: int, *, batch_size: int) -> int:
    """Chooses the rows of the first batch from its number of slices: one of a few sizes, each compiled once."""
    return min(batch_size, 1 if count <= 1 else 8 if count <= 8 else batch_size)
