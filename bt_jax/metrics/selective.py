"""Selective prediction: how many answers stand without a warning, and how many of those are right.

A model that may decline to answer trades coverage, the share of images that it answers, for accuracy on them (El-Yaniv
and Wiener 2010, https://jmlr.org/papers/v11/el-yaniv10a.html). Here an answer carries a warning if its confidence is
below a limit, or if the image is out of distribution. The limit of a trained model is in `confidence.json` in its
workdir.
"""

import dataclasses
import json
import math
import pathlib
from collections.abc import Sequence

import numpy as np

from bt_jax.common import files
from bt_jax.common.errors import UsageError

FILE = "confidence.json"
SCHEMA = 1
# Limits to choose from: below a half, no class has a majority, which has a warning of its own.
FEWEST = 30  # answers that a share is taken of
LIMITS = tuple(round(0.5 + 0.01 * number, 2) for number in range(50))


@dataclasses.dataclass(frozen=True)
class ConfidenceLimit:
    """The confidence below which an answer carries a warning, and what the answers above it are worth.

    Attributes:
      value: between 0 and 1.
      accuracy: share of right answers among those without a warning.
      coverage: share of the images that are answered without a warning.
      fitted_on: the images it was chosen on, as text.
      images: the number of these images.
      step: of the checkpoint that it was chosen for.
    """

    value: float
    accuracy: float
    coverage: float
    fitted_on: str
    images: int
    step: int | None = None

    def __post_init__(self) -> None:
        for name in ("value", "accuracy", "coverage"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is {getattr(self, name)!r}, not a share")


@dataclasses.dataclass(frozen=True)
class Selection:
    """What a limit leaves of some images.

    Attributes:
      limit: of the confidence.
      images: number of all images.
      answered: number of images that are answered without a warning.
      right: number of right answers among them.
    """

    limit: float
    images: int
    answered: int
    right: int

    @property
    def coverage(self) -> float:
        """The share of the images that are answered."""
        return self.answered / self.images

    @property
    def accuracy(self) -> float:
        """The share of right answers; NaN without answers."""
        return self.right / self.answered if self.answered else math.nan


def select(limit: float, *, confidences: np.ndarray, correct: np.ndarray, accepted: np.ndarray) -> Selection:
    """Counts what a limit leaves.

    Args:
      limit: answers with at least this confidence stand.
      confidences: [N] floats.
      correct: [N] bool, whether the answer is right.
      accepted: [N] bool, False for images that have another warning.
    """
    answered = accepted & (confidences >= limit)
    return Selection(limit, images=len(answered), answered=int(answered.sum()), right=int(correct[answered].sum()))


def choose(selections: Sequence[Selection], *, accuracy: float) -> Selection | None:
    """Chooses the selection of largest coverage that has at least this accuracy; None if none has.

    A selection of a few images says nothing, and is not chosen.
    """
    good = (one for one in selections if one.answered >= FEWEST and one.accuracy >= accuracy)
    return max(good, key=lambda one: one.coverage, default=None)


def write(folder: files.Path, limit: ConfidenceLimit) -> None:
    """Writes `confidence.json` into the workdir of a run."""
    files.write_json(pathlib.Path(folder) / FILE, {"schema": SCHEMA, **dataclasses.asdict(limit)})


def read(folder: files.Path, *, step: int) -> ConfidenceLimit | None:
    """Returns the limit of the model in a workdir, or None if there is none for the checkpoint of that step.

    Raises:
      UsageError: the file does not hold a limit.
    """
    path = pathlib.Path(folder) / FILE
    if not path.exists():
        return None
    try:
        content = json.loads(path.read_bytes())
        del content["schema"]
        limit = ConfidenceLimit(**content)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{path} is damaged ({type(error).__name__}: {error}): remove it") from error
    return limit if limit.step == step else None
