"""What the folds of a cross-validation tell about a final model of the same plan, trained on all their images.

No image is left to measure a final model on. The networks of the folds stand in for it, each on the images of patients
that it has not seen. From them a final model gets its temperature, the threshold of its out-of-distribution (OOD)
model, and the confidence below which its answers carry a warning.

Distances in the features of two networks have different scales. So each distance is divided by the median distance of
the network's own training images before they are pooled, and the threshold is multiplied by that of the final model.
"""

import dataclasses
import pathlib
from collections.abc import Iterable, Sequence

import numpy as np

from bt_jax.common import files, waiting
from bt_jax.common.errors import UsageError
from bt_jax.data.dataset import Dataset
from bt_jax.inference import ood, trained_model
from bt_jax.inference.ood import OodModel
from bt_jax.inference.trained_model import TrainedModel
from bt_jax.metrics import calibration, selective
from bt_jax.metrics.calibration import Temperature
from bt_jax.metrics.selective import ConfidenceLimit, Selection


@dataclasses.dataclass(frozen=True)
class OutOfFold:
    """Outputs for N images, each by the network that has not seen its patient.

    Attributes:
      rows: [N] of the images in the data set.
      labels: [N] integers.
      logits: [N, classes] float32.
      distances: [N] float64, from the training images of the network, in units of their median distance.
      folds: number of networks.
    """

    rows: np.ndarray
    labels: np.ndarray
    logits: np.ndarray
    distances: np.ndarray
    folds: int

    @property
    def description(self) -> str:
        """A phrase for reports, such as `the 2870 out-of-fold predictions of 5 folds`."""
        return f"the {len(self.labels)} out-of-fold predictions of {self.folds} fold{'s' * (self.folds > 1)}"

    @property
    def temperature(self) -> float:
        """The temperature of one network, fitted on all images."""
        return calibration.fit(self.logits, self.labels)

    @property
    def threshold(self) -> float:
        """The distance that only one image in a hundred exceeds."""
        return float(np.percentile(self.distances, ood.PERCENTILE))

    def compute_probabilities(self) -> np.ndarray:
        """Computes calibrated probabilities [N, classes] float64."""
        return calibration.softmax(self.logits, self.temperature)

    def list_selections(self, limits: Iterable[float]) -> list[Selection]:
        """Computes what each limit of the confidence leaves, beside the warning of the OOD model."""
        probabilities = self.compute_probabilities()
        return [
            selective.select(
                limit,
                confidences=probabilities.max(axis=1),
                correct=probabilities.argmax(axis=1) == self.labels,
                accepted=self.distances <= self.threshold,
            )
            for limit in limits
        ]


def compute(folders: Sequence[pathlib.Path], dataset: Dataset, *, batch_size: int = 32) -> OutOfFold:
    """Computes the outputs of runs on their validation images.

    Args:
      folders: workdirs of finished runs on the data set, each with other validation images.
      dataset: the Training images, preprocessed as for the runs.
      batch_size: images per step.

    Raises:
      UsageError: a folder holds no finished run, or its split has an image that the data set lacks.
    """
    row_of = {path: row for row, path in enumerate(dataset.paths)}
    rows, logits, distances = [], [], []
    for folder in folders:
        with waiting.report(f"computing the outputs of {folder.name} on its validation images"):
            model = trained_model.load(folder, batch_size=batch_size)
            training, validation = (_find_rows(folder, row_of, role) for role in ("training", "validation"))
            gaussian, typical = fit_distances(model, dataset, training)
            of_fold, features = model.compute(dataset.images[validation])
        rows.append(validation)
        logits.append(of_fold[0])
        distances.append(gaussian.score(features[0]) / typical)
    chosen = np.concatenate(rows)
    return OutOfFold(
        rows=chosen,
        labels=np.asarray(dataset.labels)[chosen],
        logits=np.concatenate(logits),
        distances=np.concatenate(distances),
        folds=len(folders),
    )


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
    folder: pathlib.Path, dataset: Dataset, evidence: OutOfFold, *, accuracy: float, batch_size: int = 32
) -> TrainedModel:
    """Writes temperature, OOD model and confidence limit of a final model into its workdir, and loads it with them.

    Args:
      folder: workdir of a finished run without folds.
      dataset: the Training images, preprocessed as for the run.
      evidence: of runs of the same plan.
      accuracy: that the answers without a warning shall have; above the reach of all limits, there is no limit.
      batch_size: images per step.

    Raises:
      UsageError: the folder holds no finished run.
    """
    model = trained_model.load(folder, batch_size=batch_size)
    step = trained_model.read_best_step(folder)
    fitted_on, images = evidence.description, len(evidence.labels)
    calibration.write(folder, Temperature(evidence.temperature, fitted_on, images, step))
    gaussian, typical = fit_distances(model, dataset, np.arange(len(dataset)))
    threshold = typical * evidence.threshold
    ood.write(folder, dataclasses.replace(gaussian, threshold=threshold, fitted_on=fitted_on, step=step))
    chosen = selective.choose(evidence.list_selections(selective.LIMITS), accuracy=accuracy)
    if chosen is not None:
        limit = ConfidenceLimit(chosen.limit, chosen.accuracy, chosen.coverage, fitted_on, images, step)
        selective.write(folder, limit)
    return trained_model.load(folder, batch_size=batch_size)


def _find_rows(folder: pathlib.Path, row_of: dict[str, int], role: str) -> np.ndarray:
    """Finds the images of a data set that had a role in a run: [N] row numbers."""
    try:
        return np.array([row_of[row["path"]] for row in files.read_csv(folder / "split.csv") if row["role"] == role])
    except (OSError, KeyError) as error:
        raise UsageError(
            f"the split of the run in {folder} does not fit the images ({error}): use its own data"
        ) from error
