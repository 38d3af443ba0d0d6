"""Calibration of probabilities: temperature scaling and the calibration error.

Temperature scaling divides a network's logits by one number before the softmax (Guo et al. 2017,
https://arxiv.org/abs/1706.04599). It changes the confidence of a prediction and never the predicted class. The
temperature of a trained model is in `calibration.json` in its workdir.
"""

import dataclasses
import json
import math
import pathlib

import numpy as np

from bt_jax.common import files
from bt_jax.common.errors import UsageError
from bt_jax.metrics.confusion import divide

FILE = "calibration.json"
SCHEMA = 1
BINS = 15  # Guo et al. 2017

# A temperature beyond these limits comes from a network that has hardly learned, or from a handful of images.
LOWEST, HIGHEST = 0.05, 20.0


@dataclasses.dataclass(frozen=True)
class Temperature:
    """The number that a model's logits are divided by.

    Attributes:
      value: above 0. A value above 1 lowers the confidence, a value below 1 raises it.
      fitted_on: the data it was fitted on, as text.
      images: the number of these images.
      step: of the checkpoint that it was fitted for; None for the ensemble of a cross-validation.
    """

    value: float
    fitted_on: str
    images: int
    step: int | None = None

    def __post_init__(self) -> None:
        if not (self.value > 0 and math.isfinite(self.value)):
            raise ValueError(f"the temperature is {self.value!r}, which must be above 0")


@dataclasses.dataclass(frozen=True)
class Calibration:
    """How probabilities were calibrated, for a report that compares before and after.

    Attributes:
      uncalibrated: the probabilities before, [N, C].
      temperature: None if several were used.
      fitted_on: the data it was fitted on, as text.
      biased: whether the report is on the images that it was fitted on.
    """

    uncalibrated: np.ndarray
    temperature: float | None
    fitted_on: str
    biased: bool


def softmax(logits: np.ndarray, temperature: float | np.ndarray = 1.0) -> np.ndarray:
    """Returns probabilities [..., C] float64 of logits [..., C] divided by a temperature, or one per row [..., 1]."""
    scaled = np.asarray(logits, np.float64) / temperature
    shifted = np.exp(scaled - scaled.max(-1, keepdims=True))
    return shifted / shifted.sum(-1, keepdims=True)


def fit(logits: np.ndarray, labels: np.ndarray) -> float:
    """Returns the temperature between `LOWEST` and `HIGHEST` with the smallest cross-entropy.

    The cross-entropy is convex in 1 / temperature, so its slope has one zero, which bisection finds to the last bit of
    a float64. If all images are classified correctly, there is no zero: the likelihood grows without bound as the
    temperature falls, however few the images. The temperature is then 1, as it is without images.

    Args:
      logits: [N, C] floats.
      labels: [N] integers, the true classes.

    Raises:
      ValueError: the logits are not finite, or the shapes do not match.
    """
    logits, labels = np.asarray(logits, np.float64), np.asarray(labels)
    if logits.ndim != 2 or labels.shape != logits.shape[:1]:
        raise ValueError(f"logits {logits.shape} must be [N, C] and labels {labels.shape} [N]")
    if not np.isfinite(logits).all():
        raise ValueError("the logits are not finite")
    above_truth = logits - np.take_along_axis(logits, labels[:, None].astype(np.int64), 1)  # [N, C]
    if not (above_truth > 0).any():
        return 1.0

    def slope(inverse: float) -> float:
        """Returns the derivative of the mean cross-entropy with respect to 1 / temperature."""
        return float((softmax(above_truth, 1 / inverse) * above_truth).sum(1).mean())

    low, high = math.log(1 / HIGHEST), math.log(1 / LOWEST)
    if slope(math.exp(low)) >= 0:
        return HIGHEST
    if slope(math.exp(high)) <= 0:
        return LOWEST
    while low < (middle := (low + high) / 2) < high:
        if slope(math.exp(middle)) < 0:
            low = middle
        else:
            high = middle
    return math.exp(-high)


def write(folder: files.Path, temperature: Temperature) -> None:
    """Writes `calibration.json` into the workdir of a run or of a cross-validation."""
    content = {"schema": SCHEMA, "temperature": temperature.value, "fitted_on": temperature.fitted_on}
    content |= {"images": temperature.images, "step": temperature.step}
    files.write_json(pathlib.Path(folder) / FILE, content)


def read(folder: files.Path, *, step: int | None = None) -> Temperature | None:
    """Returns the temperature of the model in a workdir, or None if there is none for the checkpoint of that step.

    Raises:
      UsageError: the file does not hold a temperature.
    """
    path = pathlib.Path(folder) / FILE
    if not path.exists():
        return None
    try:
        content = json.loads(path.read_bytes())
        found = Temperature(
            value=float(content["temperature"]),
            fitted_on=str(content["fitted_on"]),
            images=int(content["images"]),
            step=content["step"],
        )
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{path} holds no temperature ({type(error).__name__}: {error}): remove it") from error
    return found if found.step == step else None


def reliability_curve(
    labels: np.ndarray, probabilities: np.ndarray, bins: int = BINS
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Computes confidence and accuracy of the predictions in bins of equal width.

    Bin i holds the images whose largest probability lies in (i / bins, (i + 1) / bins].

    Args:
      labels: [N] integers.
      probabilities: [N, C] floats.
      bins: number of bins between 0 and 1.

    Returns:
      Mean confidence [bins] and accuracy [bins] as float64, NaN for an empty bin, and the number of images [bins] as
      int64.
    """
    labels, probabilities = np.asarray(labels), np.asarray(probabilities, np.float64)
    confidence = probabilities.max(axis=1)
    correct = probabilities.argmax(axis=1) == labels
    index = _assign_bins(confidence, bins)
    count = np.bincount(index, minlength=bins)
    mean_confidence = divide(np.bincount(index, weights=confidence, minlength=bins), count)
    accuracy = divide(np.bincount(index, weights=correct, minlength=bins), count)
    return mean_confidence, accuracy, count


def expected_calibration_error(labels: np.ndarray, probabilities: np.ndarray, bins: int = BINS) -> float:
    """Computes the mean distance between confidence and accuracy of bins, weighted by images; NaN without images."""
    confidence, accuracy, count = reliability_curve(labels, probabilities, bins)
    return float(np.nansum(count * abs(accuracy - confidence)) / count.sum()) if count.sum() else np.nan


def estimate_error_if_calibrated(probabilities: np.ndarray, *, seed: int = 0, draws: int = 200) -> float:
    """Estimates the mean calibration error that correct probabilities like these would show; NaN without images.

    It is not 0: in a bin of few images the accuracy differs from the confidence by chance. A calibration error up to
    this value is therefore no evidence of miscalibration.

    Args:
      probabilities: [N, C] floats.
      seed: of the draws.
      draws: number of simulations, in each of which a prediction is correct with its confidence as the probability.
    """
    if not len(probabilities):
        return np.nan
    confidence = probabilities.max(axis=1)
    right = np.random.default_rng(seed).random((draws, len(confidence))) < confidence  # [draws, N]
    in_bin = np.eye(BINS)[_assign_bins(confidence, BINS)]  # [N, BINS]
    return float(abs((right - confidence) @ in_bin).sum(axis=1).mean() / len(confidence))


def _assign_bins(confidence: np.ndarray, bins: int) -> np.ndarray:
    """Returns the bin of each confidence [N]: i for (i / bins, (i + 1) / bins]."""
    return np.clip(np.searchsorted(np.linspace(0, 1, bins + 1), confidence, side="left") - 1, 0, bins - 1)


def cross_entropy(labels: np.ndarray, probabilities: np.ndarray) -> float:
    """Returns the mean of -log of the probability of the true class, in nats; NaN without images.

    As in scikit-learn, probabilities are clipped: one that underflowed to 0 costs 36 nats, not infinity.
    """
    likelihood = np.clip(probabilities[np.arange(len(labels)), labels], np.finfo(np.float64).eps, 1)
    return float(np.log(1 / likelihood).mean()) if len(labels) else np.nan
