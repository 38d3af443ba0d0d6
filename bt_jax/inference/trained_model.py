"""A trained model ready to predict: preprocessing, networks, class names, temperature and OOD models.

`TrainedModel` is what `--model` names: the best checkpoint of a run, the folds of a cross-validation, or an exported
file; `loading.load` makes it. JAX computes it, or, if it is an ONNX file, an engine for such files: this module imports
neither. `predictor.Predictor` adds averaging over several models and views, and the warnings.
"""

import dataclasses
import pathlib
import typing
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from bt_jax.data.class_labels import SYNTHETIC_NOTICE
from bt_jax.data.preprocess import Preprocessing
from bt_jax.inference import class_maps, heat_map
from bt_jax.inference.class_maps import ClassMaps
from bt_jax.inference.description import ModelDescription
from bt_jax.inference.ood import OodModel
from bt_jax.metrics import calibration
from bt_jax.metrics.calibration import Temperature
from bt_jax.metrics.selective import ConfidenceLimit

if typing.TYPE_CHECKING:
    from bt_jax.inference.trained_network import TrainedNetwork

# Preprocessed images [N, S, S] uint8, N > 0 -> logits [members, N, classes] and features [members, N, D], float32.
Compute = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]


class ModelOutputs(NamedTuple):
    """Outputs of a model for N preprocessed images.

    Attributes:
      logits: [members, N, classes] float32.
      ood_scores: [N] float64, distance of each image from the training images, see `ood`; above 1 its class means
        nothing. None without an OOD model.
    """

    logits: np.ndarray
    ood_scores: np.ndarray | None


@dataclasses.dataclass(frozen=True)
class TrainedModel:
    """A model ready to predict. A cross-validation is an ensemble: its probabilities are the mean over the folds.

    Attributes:
      description: of the first member.
      preprocessing: from a decoded image to the input of the networks.
      compute: the members' logits and features of preprocessed images.
      networks: the members; empty for an exported program and for an ONNX file.
      folders: workdirs of the members; empty for a file.
      temperature: of the probabilities; None if none is stored, and then the probabilities are not calibrated.
      ood_models: one for each member; empty if they were not fitted, and then there are no OOD scores.
      confidence_limit: below it an answer carries a warning; None if it was not measured.
      class_maps: of an ONNX file with linear heads.
      engine: what computes the model.
      members: number of networks.
      compiled: whether each number of images is a program of its own, which is compiled at its first use.
    """

    description: ModelDescription
    preprocessing: Preprocessing
    compute: Compute
    networks: tuple["TrainedNetwork", ...]
    folders: tuple[pathlib.Path, ...]
    temperature: Temperature | None = None
    ood_models: tuple[OodModel, ...] = ()
    confidence_limit: ConfidenceLimit | None = None
    class_maps: ClassMaps | None = None
    engine: str = "JAX"
    members: int = 1
    compiled: bool = True

    @property
    def class_names(self) -> tuple[str, ...]:
        """In the order of the probabilities."""
        return self.description.class_names

    @property
    def methods(self) -> tuple[str, ...]:
        """Methods for heat maps, some of `heat_map.METHODS`."""
        if self.networks:
            return heat_map.METHODS
        return (class_maps.METHOD,) if self.class_maps else ()

    @property
    def notice(self) -> str | None:
        """The notice that everything made with this model must carry, or None."""
        return SYNTHETIC_NOTICE if self.description.synthetic else None

    def predict(self, images: np.ndarray) -> ModelOutputs:
        """Computes logits and OOD scores of preprocessed images [N, S, S] uint8 in one pass of the networks."""
        if not len(images):
            return ModelOutputs(np.zeros((self.members, 0, len(self.class_names)), np.float32), np.zeros(0))
        logits, features = self.compute(images)
        if not self.ood_models:
            return ModelOutputs(logits, None)
        scores = [one.score(of_member) for one, of_member in zip(self.ood_models, features, strict=True)]
        return ModelOutputs(logits, np.mean(scores, axis=0))

    def predict_logits(self, images: np.ndarray) -> np.ndarray:
        """Computes the logits [members, N, classes] of preprocessed images [N, S, S] uint8."""
        return self.predict(images).logits

    def compute_probabilities(self, logits: np.ndarray, *, calibrated: bool = True) -> np.ndarray:
        """Averages the members' softmax at the temperature: logits [members, N, classes] -> [N, classes] float64."""
        by = self.temperature.value if self.temperature and calibrated else 1.0
        return np.asarray(calibration.softmax(logits, by).mean(axis=0))

    def predict_probabilities(self, images: np.ndarray) -> np.ndarray:
        """Computes probabilities of preprocessed images, calibrated if possible: [N, S, S] uint8 -> [N, classes]."""
        return self.compute_probabilities(self.predict_logits(images))
