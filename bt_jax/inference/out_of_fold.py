"""What the folds of a cross-validation tell about a final model of the same plan, trained on all their images.

No image is left to measure a final model on. The networks of the folds stand in for it, each on images of groups that
it has not seen. From them a final model gets its temperature, the threshold of its out-of-distribution (OOD) model, and
the confidence below which its answers carry a warning. Like the final model, they are taken as they are after the last
step: a checkpoint that was chosen on the validation images would be more right on them than on others.

Distances in the features of two networks have different scales. So each distance is divided by the median distance of
the network's own training images before they are pooled, and the threshold is multiplied by that of the final model.
"""

import dataclasses
import functools
import pathlib
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from bt_jax.common import files, waiting
from bt_jax.common.errors import UsageError
from bt_jax.data.dataset import Dataset
from bt_jax.inference import jax_model, ood
from bt_jax.inference.ood import OodModel
from bt_jax.inference.trained_model import TrainedModel
from bt_jax.metrics import calibration, selective
from bt_jax.metrics.calibration import Temperature
from bt_jax.metrics.selective import ConfidenceLimit, Selection


class CrossCheck(NamedTuple):
    """What the images of each fold show of what was fitted on the other folds.

    Attributes:
      selection: the answers without a warning, with the mean of the limits; None where some folds had no limit.
      flagged: number of images that are called out-of-distribution.
    """

    selection: Selection | None
    flagged: int


@dataclasses.dataclass(frozen=True)
class FoldOutputs:
    """Outputs for N images, each by the network that has not seen its group.

    Attributes:
      rows: [N] of the images in the data set.
      labels: [N] integers.
      logits: [N, classes] float32.
      distances: [N] float64, from the training images of the network, in units of their median distance.
      fold_of: [N] integers, the network of each image.
    """

    rows: np.ndarray
    labels: np.ndarray
    logits: np.ndarray
    distances: np.ndarray
    fold_of: np.ndarray

    @property
    def description(self) -> str:
        """A phrase for reports, such as `the 2870 out-of-fold predictions of 5 folds`."""
        folds = len(np.unique(self.fold_of))
        return f"the {len(self.labels)} out-of-fold predictions of {folds} fold{'s' * (folds > 1)}"

    @functools.cached_property
    def temperature(self) -> float:
        """The temperature of one network, fitted on all images."""
        return calibration.fit(self.logits, self.labels)

    @functools.cached_property
    def threshold(self) -> float:
        """The distance that only one image in a hundred exceeds."""
        return float(np.percentile(self.distances, ood.PERCENTILE))

    def take(self, rows: np.ndarray) -> "FoldOutputs":
        """Returns the outputs selected by a mask [N] bool."""
        return FoldOutputs(
            self.rows[rows], self.labels[rows], self.logits[rows], self.distances[rows], self.fold_of[rows]
        )

    def list_selections(
        self, limits: Iterable[float], *, temperature: float | None = None, threshold: float | None = None
    ) -> list[Selection]:
        """Computes what each limit of the confidence leaves, beside the warning of the OOD model.

        Args:
          limits: of the confidence.
          temperature: of the probabilities; None: the one fitted on these images.
          threshold: of the distances; None: the one fitted on these images.
        """
        probabilities = calibration.softmax(self.logits, temperature or self.temperature)
        accepted = self.distances <= (threshold or self.threshold)
        confidences, correct = probabilities.max(axis=1), probabilities.argmax(axis=1) == self.labels
        return [
            selective.select(limit, confidences=confidences, correct=correct, accepted=accepted) for limit in limits
        ]

    def cross_check(self, *, accuracy: float) -> CrossCheck | None:
        """Fits temperature, threshold and limit on all folds but one, and applies them to that one, for each fold.

        Args:
          accuracy: as of `calibrate`.

        Returns:
          The sum over the folds; None for a single fold.
        """
        folds = np.unique(self.fold_of)
        if len(folds) < 2:
            return None
        chosen, applied, flagged = list[Selection | None](), list[Selection](), 0
        for fold in folds:
            others, own = self.take(self.fold_of != fold), self.take(self.fold_of == fold)
            flagged += int((own.distances > others.threshold).sum())
            limit = selective.choose(others.list_selections(selective.LIMITS), accuracy=accuracy)
            chosen.append(limit)
            if limit is not None:
                fitted = {"temperature": others.temperature, "threshold": others.threshold}
                applied += own.list_selections([limit.limit], **fitted)
        if len(applied) < len(folds):
            return CrossCheck(None, flagged)
        answered = sum(one.answered for one in applied)
        right = sum(one.right for one in applied)
        mean = float(np.mean([one.limit for one in applied]))
        return CrossCheck(Selection(mean, images=len(self.labels), answered=answered, right=right), flagged)


def compute(folders: Sequence[pathlib.Path], dataset: Dataset, *, batch_size: int = 32) -> FoldOutputs:
    """Computes the outputs of runs, after their last step, on their validation images.

    Args:
      folders: workdirs of finished runs on the data set, each with other validation images.
      dataset: the Training images, preprocessed as for the runs.
      batch_size: images per step.

    Raises:
      UsageError: a folder holds no run, or its split has an image that the data set lacks.
    """
    row_of = {path: row for row, path in enumerate(dataset.paths)}
    parts = []
    for fold, folder in enumerate(folders):
        with waiting.report(f"computing the outputs of {folder.name} on its validation images"):
            model = jax_model.load(folder, batch_size=batch_size, last=True)
            training, validation = (_find_rows(folder, row_of, role) for role in ("training", "validation"))
            gaussian, typical = fit_distances(model, dataset, training)
            logits, features = model.compute(dataset.images[validation])
        parts.append(
            FoldOutputs(
                rows=validation,
                labels=np.asarray(dataset.labels)[validation],
                logits=logits[0],
                distances=gaussian.score(features[0]) / typical,
                fold_of=np.full(len(validation), fold),
            )
        )
    names = [field.name for field in dataclasses.fields(FoldOutputs)]
    return FoldOutputs(**{name: np.concatenate([getattr(part, name) for part in parts]) for name in names})


def fit_distances(model: TrainedModel, dataset: Dataset, rows: np.ndarray) -> tuple[OodModel, float]:
    """Fits a Gaussian to a model's training images, and returns it with their median distance.

    Args:
      model: of one network.
      dataset: its images.
      rows: those that it was trained on.

    Raises:
      UsageError: the features of the model do not differ between the images.
    """
    some = rows[ood.choose_rows(len(rows))]
    features = model.compute(dataset.images[some])[1][0]
    gaussian = ood.fit_gaussian(features, fitted_on="", step=0)
    typical = 0.0 if gaussian is None else float(np.median(gaussian.score(features)))
    if gaussian is None or not typical > 0:
        raise UsageError("the features of the network are the same for all images: train it to the end")
    return gaussian, typical


def calibrate(
    folder: pathlib.Path, dataset: Dataset, outputs: FoldOutputs, *, accuracy: float, batch_size: int = 32
) -> TrainedModel:
    """Writes temperature, OOD model and confidence limit of a final model into its workdir, and loads it with them.

    Args:
      folder: workdir of a finished run without folds.
      dataset: the Training images, preprocessed as for the run.
      outputs: of runs of the same plan.
      accuracy: that the answers without a warning shall have; above the reach of all limits, there is no limit.
      batch_size: images per step.

    Raises:
      UsageError: the folder holds no finished run.
    """
    model = jax_model.load(folder, batch_size=batch_size)
    step = jax_model.read_best_step(folder)
    fitted_on, images = outputs.description, len(outputs.labels)
    gaussian, typical = fit_distances(model, dataset, np.arange(len(dataset)))
    threshold = typical * outputs.threshold
    chosen = selective.choose(outputs.list_selections(selective.LIMITS), accuracy=accuracy)
    calibration.write(folder, Temperature(outputs.temperature, fitted_on, images, step))
    ood.write(folder, dataclasses.replace(gaussian, threshold=threshold, fitted_on=fitted_on, step=step))
    if chosen is None:
        (folder / selective.FILE).unlink(missing_ok=True)
    else:
        limit = ConfidenceLimit(chosen.limit, chosen.accuracy, chosen.coverage, fitted_on, images, step)
        selective.write(folder, limit)
    return jax_model.load(folder, batch_size=batch_size)


def _find_rows(folder: pathlib.Path, row_of: dict[str, int], role: str) -> np.ndarray:
    """Finds the images of a data set that had a role in a run: [N] row numbers."""
    try:
        return np.array([row_of[row["path"]] for row in files.read_csv(folder / "split.csv") if row["role"] == role])
    except (OSError, KeyError) as error:
        raise UsageError(
            f"the split of the run in {folder} does not fit the images ({error}): use its own data"
        ) from error
