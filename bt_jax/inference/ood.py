"""Whether an image is of the kind that a model learned from: how far its features lie from the training images'.

A softmax is sure of photographs and charts too, so its confidence cannot tell. The features that the last layers decide
by can. Their distance to the training images' is Mahalanobis's (Lee et al. 2018, https://arxiv.org/abs/1807.03888) with
the covariance of a probabilistic principal component analysis (Tipping and Bishop 1999): the directions in which the
training images differ most each with their variance, all others with one. So what other pictures excite and brain
slices never do counts most. Distances on the unit sphere (https://arxiv.org/abs/2204.06507) throw that away: on an
EfficientNet-Lite1 they missed a quarter of the photographs and all bodies that this finds.

The score is the distance divided by the largest that is normal, the 99th percentile of the validation images, which are
of other patients than the training images. What is needed for it lies in a run's workdir, in `doubt.npz`.
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
COMPONENTS = 32  # from 16 to 128 the detection rates are the same
SHRINKAGE = 0.1  # of the mean variance, added to all: likewise from .01 to 1
PERCENTILE = 99.0
# Training images whose features are looked at; more cost time at the end of a run and hardly change the distances.
MOST_IMAGES = 1000


@dataclasses.dataclass(frozen=True)
class OodModel:
    """What a network's features are compared with.

    Attributes:
      centre: [D] float32, mean of the training images' features.
      components: [K, D] float32, the orthogonal directions of length 1 in which these differ most.
      variances: [K] float32, along these.
      remainder: variance along every other direction; above 0.
      threshold: the largest normal distance; above 0.
      fitted_on: in words, which images the threshold is from.
      step: of the checkpoint it was fitted for.
    """

    centre: np.ndarray
    components: np.ndarray
    variances: np.ndarray
    remainder: float
    threshold: float
    fitted_on: str
    step: int

    def score(self, features: np.ndarray) -> np.ndarray:
        """How far features [N, D] lie from the training images', [N] float64; above 1 is farther than is normal.

        Features that are not finite are infinitely far.
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
        """As arrays by name, for a file."""
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
        """The inverse of `to_arrays`.

        Raises:
          KeyError, ValueError, TypeError: they are not what it gives.
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
            raise ValueError(f"components {components.shape} of {len(centre)} features, {len(variances)} variances")
        if not (found.threshold > 0 and found.remainder > 0 and (variances > 0).all()):
            raise ValueError("a variance or the threshold is not above 0")
        return found


def fit(training: np.ndarray, validation: np.ndarray, *, fitted_on: str, step: int) -> OodModel | None:
    """What later images are compared with; None where the features of the training images do not differ at all.

    Args:
      training: [M, D] features of images that the network was trained on.
      validation: [N, D] features of images of other patients.
      fitted_on: in words, what the validation images are.
      step: of the checkpoint.
    """
    if not (len(training) and len(validation) and np.isfinite(training).all() and np.isfinite(validation).all()):
        return None
    centre = training.mean(axis=0, dtype=np.float64)
    variances, components, total = _find_principal_components(np.asarray(training, np.float64) - centre)
    least = SHRINKAGE * total / len(centre)
    if not least > 0:
        return None
    found = OodModel(
        centre=centre.astype(np.float32),
        components=components.astype(np.float32),
        variances=(variances + least).astype(np.float32),
        remainder=float(max(total - variances.sum(), 0) / max(len(centre) - len(variances), 1) + least),
        threshold=1.0,
        fitted_on=fitted_on,
        step=step,
    )
    return dataclasses.replace(found, threshold=float(np.percentile(found.score(validation), PERCENTILE)))


def make_warning(score: float) -> Message:
    """What is said of an image with a score above 1."""
    return Message(
        "unlike_training",
        "This does not look like the images that the model learned from, so no class means anything here: its features "
        "lie {score} times as far from theirs as is normal at most.",
        score=score,
    )


def choose_rows(count: int) -> np.ndarray:
    """Which of the training images' features are looked at: evenly spread rows, at most `MOST_IMAGES` of them."""
    return np.linspace(0, count - 1, min(count, MOST_IMAGES)).round().astype(np.int64)


def write(folder: files.Path, model: OodModel) -> None:
    """Writes `doubt.npz` into the workdir of a run."""
    with files.replace_atomically(pathlib.Path(folder) / FILE) as temporary:
        np.savez(temporary, **model.to_arrays())  # type: ignore[arg-type]


def read(folder: files.Path, *, step: int) -> OodModel | None:
    """What the workdir holds for the checkpoint of that step; None where there is none, as in those of older versions.

    Raises:
      UsageError: a file that is not what its name says.
    """
    path = pathlib.Path(folder) / FILE
    if not path.exists():
        return None
    try:
        # Opened here: of a damaged zip NumPy would leave it open.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as content:
            found = OodModel.from_arrays(content)
    except (ValueError, KeyError, TypeError, OSError, EOFError, zipfile.BadZipFile) as error:
        reason = " ".join(str(error).split())
        raise UsageError(f"{path} is damaged ({type(error).__name__}: {reason}): remove it") from error
    return found if found.step == step else None


def _find_principal_components(away: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    """The largest variances [K] of centred features [M, D], their directions [K, D], and the sum of all variances.

    By the smaller of the two products with itself: a decomposition of the features would take ten times as long.
    """
    wide = away.shape[0] < away.shape[1]
    squares, vectors = np.linalg.eigh(away @ away.T if wide else away.T @ away)  # in rising order
    kept = np.flatnonzero(squares > 1e-9 * squares[-1])[::-1][:COMPONENTS]
    directions = vectors[:, kept].T @ away / np.sqrt(squares[kept])[:, None] if wide else vectors[:, kept].T
    return squares[kept] / max(len(away) - 1, 1), directions, float((away**2).sum() / max(len(away) - 1, 1))
