"""Whether an image is of the kind that a model learned from: how far its features lie from the training images'.

A softmax is sure of photographs and charts too, so its confidence cannot tell. The features that the last layers decide
by can: those of another kind of picture lie apart from those of all training images. The score is the distance to the
k-th nearest of them on the unit sphere (Sun et al. 2022, https://arxiv.org/abs/2204.06507), divided by the largest that
is normal: the 99th percentile of the validation images, which are of other patients than the training images.

A trained model's training features lie in its workdir, in `doubt.npz`.
"""

import dataclasses
import pathlib
import zipfile
from collections.abc import Mapping
from typing import Any

import numpy as np

from bt_jax import files
from bt_jax.errors import UsageError

FILE = "doubt.npz"
SCHEMA = 1
NEIGHBOUR = 10  # k; from 5 to 50 the scores rank alike
PERCENTILE = 99.0
# Training images whose features are kept; more cost time at the end of a run and hardly change the distances.
MOST_IMAGES = 1000
# What is said of an image with a score above 1.
WARNING = (
    "This does not look like the brain MRI slices that the model learned from, so no class means anything here: "
    "its features are {score:.1f} times as far from theirs as is usual."
)


@dataclasses.dataclass(frozen=True)
class Doubt:
    """What a network's features are compared with.

    Attributes:
      centre: [D] float32, mean of the training images' features, the origin of the sphere.
      directions: [M, D] float32, the training images' features as directions from it, of length 1.
      neighbour: k.
      threshold: the largest normal distance, above 0.
      fitted_on: in words, which images the threshold is from.
      step: of the checkpoint it was fitted for.
    """

    centre: np.ndarray
    directions: np.ndarray
    neighbour: int
    threshold: float
    fitted_on: str
    step: int

    def score(self, features: np.ndarray) -> np.ndarray:
        """How far features [N, D] lie from the training images', [N] float64; above 1 is farther than is normal.

        Features that are not finite are infinitely far.
        """
        return _distances(_directions(features, self.centre), self.directions, self.neighbour) / self.threshold

    def arrays(self) -> dict[str, np.ndarray]:
        """As arrays by name, for a file; directions as float16, which moves a score by less than a thousandth."""
        return {
            "schema": np.array(SCHEMA),
            "centre": self.centre.astype(np.float32),
            "directions": self.directions.astype(np.float16),
            "neighbour": np.array(self.neighbour),
            "threshold": np.array(self.threshold),
            "fitted_on": np.frombuffer(self.fitted_on.encode(), np.uint8),
            "step": np.array(self.step),
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Any]) -> "Doubt":
        """The inverse of `arrays`.

        Raises:
          KeyError, ValueError, TypeError: they are not what it gives.
        """
        centre, directions = (np.asarray(arrays[name], np.float32) for name in ("centre", "directions"))
        found = cls(
            centre=centre,
            directions=directions,
            neighbour=int(arrays["neighbour"]),
            threshold=float(arrays["threshold"]),
            fitted_on=np.asarray(arrays["fitted_on"], np.uint8).tobytes().decode(),
            step=int(arrays["step"]),
        )
        if directions.ndim != 2 or directions.shape[1:] != centre.shape or not found.threshold > 0:
            raise ValueError(f"centre {centre.shape}, directions {directions.shape}, threshold {found.threshold}")
        if not 1 <= found.neighbour <= len(directions):
            raise ValueError(f"neighbour {found.neighbour} of {len(directions)}")
        return found


def fit(training: np.ndarray, validation: np.ndarray, *, fitted_on: str, step: int) -> Doubt | None:
    """What later images are compared with; None where the features of the validation images do not differ at all.

    Args:
      training: [M, D] features of images that the network was trained on.
      validation: [N, D] features of images of other patients.
      fitted_on: in words, what the validation images are.
      step: of the checkpoint.
    """
    centre = training.mean(axis=0, dtype=np.float64).astype(np.float32)
    # As they will be read again, so that a score is the same before and after.
    directions = _directions(training, centre).astype(np.float16).astype(np.float32)
    neighbour = min(NEIGHBOUR, len(training))
    distances = _distances(_directions(validation, centre), directions, neighbour)
    threshold = float(np.percentile(distances, PERCENTILE)) if len(distances) else 0.0
    if not (threshold > 0 and np.isfinite(threshold)):
        return None
    return Doubt(centre, directions, neighbour, threshold, fitted_on, step)


def rows_to_keep(count: int) -> np.ndarray:
    """Which of the training images' features are kept: evenly spread rows, at most `MOST_IMAGES` of them."""
    return np.linspace(0, count - 1, min(count, MOST_IMAGES)).round().astype(np.int64)


def write(folder: files.Path, doubt: Doubt) -> None:
    """Writes `doubt.npz` into the workdir of a run."""
    with files.replacing(pathlib.Path(folder) / FILE) as temporary:
        np.savez(temporary, **doubt.arrays())  # type: ignore[arg-type]


def read(folder: files.Path, *, step: int) -> Doubt | None:
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
            found = Doubt.from_arrays(content)
    except (ValueError, KeyError, TypeError, OSError, EOFError, zipfile.BadZipFile) as error:
        reason = " ".join(str(error).split())
        raise UsageError(f"{path} is damaged ({type(error).__name__}: {reason}): remove it") from error
    return found if found.step == step else None


def _directions(features: np.ndarray, centre: np.ndarray) -> np.ndarray:
    """[N, D] float32 of length 1; what lies in the centre itself has length 0."""
    away = np.asarray(features, np.float32) - centre
    return away / np.maximum(np.linalg.norm(away, axis=1, keepdims=True), np.finfo(np.float32).tiny)


def _distances(directions: np.ndarray, known: np.ndarray, neighbour: int) -> np.ndarray:
    """From each of [N, D] to the k-th nearest of [M, D]: [N] float64."""
    squared = 2 - 2 * (directions @ known.T).astype(np.float64)  # [N, M]
    kth = np.partition(squared, neighbour - 1, axis=1)[:, neighbour - 1]
    return np.where(np.isfinite(kth), np.sqrt(np.maximum(kth, 0)), np.inf)
