"""A trained model ready to predict: preprocessing, networks, class names, temperature and OOD models.

`TrainedModel` is what `--model` names: the best checkpoint of a run, the folds of a cross-validation, or an exported
file. Its members are `TrainedNetwork`s. `predictor.Predictor` adds averaging over several models and views, and the
warnings. Nothing here imports the optimiser or the input pipeline.
"""

import dataclasses
import os
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bt_jax.common.errors import UsageError
from bt_jax.data.class_labels import SYNTHETIC_NOTICE
from bt_jax.data.preprocess import Preprocessing
from bt_jax.inference import model_file, ood
from bt_jax.inference.description import ModelDescription
from bt_jax.inference.forward import Forward, compute_outputs, make_forward
from bt_jax.inference.ood import OodModel
from bt_jax.metrics import calibration, selective
from bt_jax.metrics.calibration import Temperature
from bt_jax.metrics.selective import ConfidenceLimit
from bt_jax.models.normalise import Normalisation
from bt_jax.models.registry import Network, Tree
from bt_jax.workdir import checkpoint

# Preprocessed images [N, S, S] uint8, N > 0 -> logits [members, N, classes] and features [members, N, D], float32.
Compute = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]


@dataclasses.dataclass(frozen=True)
class TrainedNetwork:
    """A network with its weights, one member of a `TrainedModel`."""

    network: Network
    params: Tree
    batch_stats: Tree
    normalisation: Normalisation


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
      networks: the members; empty for an exported program.
      folders: workdirs of the members; empty for a file.
      temperature: of the probabilities; None if none is stored, and then the probabilities are not calibrated.
      ood_models: one for each member; empty if they were not fitted, and then there are no OOD scores.
      confidence_limit: below it an answer carries a warning; None if it was not measured.
    """

    description: ModelDescription
    preprocessing: Preprocessing
    compute: Compute
    networks: tuple[TrainedNetwork, ...]
    folders: tuple[pathlib.Path, ...]
    temperature: Temperature | None = None
    ood_models: tuple[OodModel, ...] = ()
    confidence_limit: ConfidenceLimit | None = None

    @property
    def class_names(self) -> tuple[str, ...]:
        """In the order of the probabilities."""
        return self.description.class_names

    @property
    def notice(self) -> str | None:
        """The notice that everything made with this model must carry, or None."""
        return SYNTHETIC_NOTICE if self.description.synthetic else None

    def predict(self, images: np.ndarray) -> ModelOutputs:
        """Computes logits and OOD scores of preprocessed images [N, S, S] uint8 in one pass of the networks."""
        if not len(images):
            members = max(1, len(self.networks))
            return ModelOutputs(np.zeros((members, 0, len(self.class_names)), np.float32), np.zeros(0))
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


def restore(folder: str | os.PathLike[str], step: int | None = None) -> tuple[ModelDescription, Tree]:
    """Restores a checkpoint of a run, by default the best one.

    Returns:
      The description, and {`params`, `batch_stats`} on the first device.

    Raises:
      UsageError: the folder holds no run.
    """
    best_step, metadata = checkpoint.read_best_metadata(folder)
    description = ModelDescription.from_dict(metadata["model"])
    return description, _restore_weights(
        folder, best_step if step is None else step, *description.create_abstract_network()[1:]
    )


def read_best_step(folder: str | os.PathLike[str]) -> int:
    """Returns the step of the checkpoint that `load` takes.

    Raises:
      UsageError: the folder holds no run.
    """
    return checkpoint.read_best_metadata(folder)[0]


def _restore_weights(folder: str | os.PathLike[str], step: int, params: Tree, batch_stats: Tree) -> Tree:
    here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    tree = checkpoint.make_abstract({"params": params, "batch_stats": batch_stats}, here)
    weights: Tree = checkpoint.restore_for_evaluation(folder, step, tree)
    return weights


def load(path: str | os.PathLike[str], *, batch_size: int = 32, last: bool = False) -> TrainedModel:
    """Loads the best checkpoint of a run, or of every fold of a cross-validation, or a file that `export` wrote.

    Args:
      path: workdir, StableHLO or safetensors file.
      batch_size: images per step. A smaller batch is padded to a power of two; each size is compiled separately.
      last: takes the last checkpoint of a run in place of the best one, and then without what was fitted to that.

    Raises:
      UsageError: the path holds no model, or the folds do not belong together.
    """
    path = pathlib.Path(path)
    return _load_file(path, batch_size) if path.is_file() else _load_workdir(path, batch_size, last=last)


def _load_workdir(folder: pathlib.Path, batch_size: int, *, last: bool) -> TrainedModel:
    folds = sorted(folder.glob("fold_*")) or [folder]
    if folds != [folder] and not (folder / "cross_validation.json").exists():
        raise UsageError(
            f"the cross-validation in {folder} is not finished: run it to the end, or use one of its folds"
        )
    descriptions, networks, temperatures, ood_models, limits = [], [], [], [], []
    for fold in folds:
        step, metadata = (checkpoint.read_last_metadata if last else checkpoint.read_best_metadata)(fold)
        description = ModelDescription.from_dict(metadata["model"])
        network, *shapes = description.create_abstract_network()
        weights = _restore_weights(fold, step, *shapes)
        temperatures.append(calibration.read(fold, step=step))
        ood_models.append(ood.read(fold, step=step))
        limits.append(selective.read(fold, step=step))
        descriptions.append(description)
        networks.append(
            TrainedNetwork(network, weights["params"], weights["batch_stats"], description.create_normalisation())
        )
    first = descriptions[0]
    if any((d.class_names, d.preprocessing) != (first.class_names, first.preprocessing) for d in descriptions):
        raise UsageError(f"the folds in {folder} differ in classes or preprocessing, so they are not one ensemble")
    return TrainedModel(
        description=first,
        preprocessing=Preprocessing.from_dict(first.preprocessing),
        compute=_make_compute(networks, batch_size),
        networks=tuple(networks),
        folders=tuple(folds),
        # The members of an ensemble share one temperature, fitted on the outputs of all: see `cross_validation`.
        temperature=temperatures[0] if folds == [folder] else calibration.read(folder),
        # The mean of only some members' scores would need another threshold.
        ood_models=tuple(known) if len(known := [one for one in ood_models if one]) == len(folds) else (),
        confidence_limit=limits[0] if folds == [folder] else None,
    )


def _load_file(path: pathlib.Path, batch_size: int) -> TrainedModel:
    stored = model_file.read(path)
    try:
        description = ModelDescription.from_dict({**stored.description})
        networks = [_fill_network(description, weights) for weights in stored.networks]
        preprocessing = Preprocessing.from_dict(description.preprocessing)
    except (TypeError, KeyError, ValueError) as error:
        raise UsageError(f"{path} does not describe a model ({type(error).__name__}: {error})") from error
    return TrainedModel(
        description=description,
        preprocessing=preprocessing,
        compute=_wrap_program(stored.program, batch_size) if stored.program else _make_compute(networks, batch_size),
        networks=tuple(networks),
        folders=(),
        temperature=stored.temperature,
        ood_models=tuple(stored.ood_models),
        confidence_limit=stored.confidence_limit,
    )


def _fill_network(description: ModelDescription, weights: Mapping[str, Tree]) -> TrainedNetwork:
    """Makes the network of a description with the given weights.

    Raises:
      ValueError: the weights do not have the network's names and shapes.
    """
    network, params, batch_stats = description.create_abstract_network()
    expected, given = (
        {jax.tree_util.keystr(where): leaf.shape for where, leaf in jax.tree_util.tree_leaves_with_path(trees)}
        for trees in ((params, batch_stats), (weights["params"], weights["batch_stats"]))
    )
    if expected != given:
        names = sorted(name for name in expected.keys() | given.keys() if expected.get(name) != given.get(name))
        raise ValueError(f"the weights do not fit {description.name}: {', '.join(names[:3])}")
    given_trees = jax.tree.map(lambda leaf: np.asarray(leaf, np.float32), (weights["params"], weights["batch_stats"]))
    params, batch_stats = jax.device_put(given_trees, jax.devices()[0])
    return TrainedNetwork(network, params, batch_stats, description.create_normalisation())


def _make_compute(networks: Sequence[TrainedNetwork], batch_size: int) -> Compute:
    """Makes `TrainedModel.compute` of networks; networks that differ only in their weights share one program."""
    forwards: dict[tuple[Network, Normalisation], Forward] = {}
    for member in networks:
        key = member.network, member.normalisation
        if key not in forwards:
            forwards[key] = make_forward(member.network, normalisation=member.normalisation, dtype=jnp.dtype("float32"))

    def compute(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        logits, features = zip(
            *(
                compute_outputs(
                    forwards[member.network, member.normalisation],
                    member.params,
                    member.batch_stats,
                    images=images,
                    batch_size=_choose_batch_size(len(images), batch_size),
                )
                for member in networks
            ),
            strict=True,
        )
        return np.stack(logits), np.stack(features)

    return compute


def _choose_batch_size(count: int, batch_size: int) -> int:
    """Chooses the rows of a step: the next power of two for fewer images than `batch_size`."""
    return min(batch_size, 1 << (max(count, 1) - 1).bit_length())


def _wrap_program(program: model_file.Program, batch_size: int) -> Compute:
    """Makes `TrainedModel.compute` of an exported program."""

    def forward(part: np.ndarray) -> tuple[jax.Array, jax.Array]:
        outputs = program(np.divide(part, np.float32(255), dtype=np.float32))
        return outputs["logits"], outputs["features"]

    def compute(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        logits, features = compute_outputs(
            forward, images=images, batch_size=_choose_batch_size(len(images), batch_size)
        )
        return logits.swapaxes(0, 1), features.swapaxes(0, 1)

    return compute
