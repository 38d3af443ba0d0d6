"""Out-of-distribution (OOD) detection: how far the features of an image are from those of the training images.

The confidence of a softmax cannot detect OOD images: it is high for photographs and charts too. The inputs of the last
layers can. Their distance from the training images is the Mahalanobis distance (Lee et al. 2018,
https://arxiv.org/abs/1807.03888) with the covariance of a probabilistic principal component analysis (Tipping and
Bishop 1999): the leading components have a variance each, all other directions share one. Directions in which brain
slices hardly vary therefore weigh most. Distances on the unit sphere (https://arxiv.org/abs/2204.06507) discard this:
with an EfficientNet-Lite1 they missed a quarter of the photographs and all the images of other body parts that this
distance detects.

The OOD score is the distance divided by a threshold, the 99th percentile over the validation images, whose patients are
not among the training images (of a final model, see `out_of_fold`). A score above 1 marks an OOD image. Files and
records call the score `doubt`: the `doubt.npz` of a workdir, the field `doubt` of a record, and the arrays `doubts` of
an exported file.
"""

import dataclasses
import pathlib
import zipfile
from collections.abc import Mapping
from typing import Any

import numpy as np

from bt_jax.common import files
from bt_jax.common.errors import UsageError
from bt_jax.common.messages import Message

FILE = "doubt.npz"
SCHEMA = 1
COMPONENTS = 32  # detection rates are the same from 16 to 128
SHRINKAGE = 0.1  # fraction of the mean variance that is added to all; detection rates are the same from .01 to 1
PERCENTILE = 99.0
# Training images to fit on; more take time at the end of a run and hardly change the distances.
MOST_IMAGES = 1000


@dataclasses.dataclass(frozen=True)
class OodModel:
    """A Gaussian fitted to the features of the training images.

    Attributes:
      centre: [D] float32, mean of the training images' features.
      components: [K, D] float32, orthonormal principal components.
      variances: [K] float32, variances along the components.
      remainder: variance along every other direction; above 0.
      threshold: the distance with a score of 1; above 0.
      fitted_on: description of the images that the threshold was computed on.
      step: of the checkpoint that the features are from.
    """

    centre: np.ndarray
    components: np.ndarray
    variances: np.ndarray
    remainder: float
    threshold: float
    fitted_on: str
    step: int

    def score(self, features: np.ndarray) -> np.ndarray:
        """Computes OOD scores [N] float64 of features [N, D]; above 1 is out of distribution.

        Features that are not finite have an infinite score.
        """
        return self._compute_distances(features) / self.threshold

    def _compute_distances(self, features: np.ndarray) -> np.ndarray:
        away = np.asarray(features, np.float64) - self.centre
        finite = np.isfinite(away).all(axis=1)
        away[~finite] = 0
        along = away @ self.components.T.astype(np.float64)  # [N, K]
        beside = np.maximum((away**2).sum(axis=1) - (along**2).sum(axis=1), 0)
        distances = np.sqrt((along**2 / self.variances).sum(axis=1) + beside / self.remainder)
        return np.where(finite, distances, np.inf)

    def to_arrays(self) -> dict[str, np.ndarray]:
        """Converts the model to arrays by name, for a file."""
        return {
            "schema": np.array(SCHEMA),
            "centre": self.centre,
            "components": self.components,
            "variances": self.variances,
            "remainder": np.array(self.remainder),
            "threshold": np.array(self.threshold),
            "fitted_on": np.frombuffer(self.fitted_on.encode(), np.uint8),
            "step": np.array(self.step),
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Any]) -> "OodModel":
        """Inverts `to_arrays`.

        Raises:
          KeyError, ValueError, TypeError: the arrays are not those of an OOD model.
        """
        centre, components, variances = (
            np.asarray(arrays[name], np.float32) for name in ("centre", "components", "variances")
        )
        found = cls(
            centre=centre,
            components=components,
            variances=variances,
            remainder=float(arrays["remainder"]),
            threshold=float(arrays["threshold"]),
            fitted_on=np.asarray(arrays["fitted_on"], np.uint8).tobytes().decode(),
            step=int(arrays["step"]),
        )
        if components.ndim != 2 or components.shape != (len(variances), len(centre)):
            expected = len(variances), len(centre)
            raise ValueError(f"components have shape {components.shape}, expected {expected}")
        if not (found.threshold > 0 and found.remainder > 0 and (variances > 0).all()):
            raise ValueError("the variances and the threshold must be above 0")
        return found


def fit(training: np.ndarray, validation: np.ndarray, *, fitted_on: str, step: int) -> OodModel | None:
    """Fits an OOD model. Returns None if features are missing, not finite, or the same for all training images.

    Args:
      training: [M, D] features of training images.
      validation: [N, D] features of images of other patients.
      fitted_on: description of the validation images.
      step: of the checkpoint.
    """
    found = fit_gaussian(training, fitted_on=fitted_on, step=step)
    if found is None or not len(validation) or not np.isfinite(validation).all():
        return None
    return dataclasses.replace(found, threshold=float(np.percentile(found.score(validation), PERCENTILE)))


def fit_gaussian(training: np.ndarray, *, fitted_on: str, step: int) -> OodModel | None:
    """Fits an OOD model whose scores are the distances themselves: its threshold is 1. See `fit`."""
    if not (len(training) and np.isfinite(training).all()):
        return None
    centre = training.mean(axis=0, dtype=np.float64)
    variances, components, total = _find_principal_components(np.asarray(training, np.float64) - centre)
    least = SHRINKAGE * total / len(centre)
    if not least > 0:
        return None
    return OodModel(
        centre=centre.astype(np.float32),
        components=components.astype(np.float32),
        variances=(variances + least).astype(np.float32),
        remainder=float(max(total - variances.sum(), 0) / max(len(centre) - len(variances), 1) + least),
        threshold=1.0,
        fitted_on=fitted_on,
        step=step,
    )


def make_warning(score: float) -> Message:
    """Makes the warning for an image with a score above 1."""
    return Message(
        "unlike_training",
        "The image does not look like the training images, so its class is not meaningful: it is {score} times as far "
        "from them as the normal limit.",
        score=score,
    )


def choose_rows(count: int) -> np.ndarray:
    """Chooses the training images to fit on: the indices of at most `MOST_IMAGES`, evenly spaced."""
    return np.linspace(0, count - 1, min(count, MOST_IMAGES)).round().astype(np.int64)


def write(folder: files.Path, model: OodModel) -> None:
    """Writes `doubt.npz` into the workdir of a run."""
    with files.replace_atomically(pathlib.Path(folder) / FILE) as temporary:
        np.savez(temporary, **model.to_arrays())  # type: ignore[arg-type]


def read(folder: files.Path, *, step: int) -> OodModel | None:
    """Reads `doubt.npz` of a workdir. Returns None if it is missing, or was fitted for another step.

    Raises:
      UsageError: the file is damaged.
    """
    path = pathlib.Path(folder) / FILE
    if not path.exists():
        return None
    try:
        # Opened here because NumPy would leave the file of a damaged zip open.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as content:
            found = OodModel.from_arrays(content)
    except (ValueError, KeyError, TypeError, OSError, EOFError, zipfile.BadZipFile) as error:
        reason = " ".join(str(error).split())
        raise UsageError(f"{path} is damaged ({type(error).__name__}: {reason}): remove it") from error
    return found if found.step == step else None


def _find_principal_components(away: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    """Finds the principal components of centred features [M, D].

    Returns:
      The largest variances [K], their directions [K, D], and the sum of all variances.
    """
    wide = away.shape[0] < away.shape[1]
    # The smaller Gram matrix: a singular value decomposition of the features would take ten times as long.
    squares, vectors = np.linalg.eigh(away @ away.T if wide else away.T @ away)  # in ascending order
    kept = np.flatnonzero(squares > 1e-9 * squares[-1])[::-1][:COMPONENTS]
    directions = vectors[:, kept].T @ away / np.sqrt(squares[kept])[:, None] if wide else vectors[:, kept].T
    return squares[kept] / max(len(away) - 1, 1), directions, float((away**2).sum() / max(len(away) - 1, 1))
