"""A trained model as a person uses it: preprocessing, the jitted forward, class names. No optimiser, no pipeline."""

import dataclasses
import functools
import os
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bt_jax import calibration, checkpoint
from bt_jax.calibration import Temperature
from bt_jax.data.augment import to_float
from bt_jax.data.preprocess import Preprocessing
from bt_jax.errors import UsageError
from bt_jax.labels import SYNTHETIC_NOTICE
from bt_jax.models import registry
from bt_jax.models.normalise import Normalisation
from bt_jax.models.registry import Network, Tree

Forward = Callable[[Tree, Tree, jax.Array | np.ndarray], jax.Array]


def make_forward(
    network: Network, *, normalisation: Normalisation, dtype: jnp.dtype, shardings: tuple[Any, Any, Any] | None = None
) -> Forward:
    """The jitted function (params, batch_stats, images [B, S, S] float32 in [0, 1]) -> logits [B, classes] float32."""

    def forward(params: Tree, batch_stats: Tree, images: jax.Array) -> jax.Array:
        return network.apply(params, batch_stats, normalisation(images, dtype=dtype))[0]

    return jax.jit(forward, in_shardings=shardings) if shardings else jax.jit(forward)


def logits_of(forward: Forward, params: Tree, batch_stats: Tree, images: np.ndarray, *, batch_size: int) -> np.ndarray:
    """Logits of preprocessed images, each once: [N, S, S] uint8 -> [N, classes] float32."""
    outputs = []
    for start in range(0, len(images), batch_size):
        part = images[start : start + batch_size]
        padded = np.zeros((batch_size, *images.shape[1:]), np.float32)
        padded[: len(part)] = to_float(part)
        outputs.append((forward(params, batch_stats, padded), len(part)))
    return np.concatenate([np.asarray(logits)[:valid] for logits, valid in outputs])


def _logits_of(forward: Forward, weights: Tree, batch_size: int, images: np.ndarray) -> np.ndarray:
    """As `logits_of`, but fewer images than a step holds make a smaller step, of the next power of two."""
    batch_size = min(batch_size, 1 << (max(len(images), 1) - 1).bit_length())
    return logits_of(forward, weights["params"], weights["batch_stats"], images, batch_size=batch_size)


@dataclasses.dataclass(frozen=True)
class ModelDescription:
    """All that a checkpoint must say for its arrays to become a usable model; plain values, kept as JSON."""

    name: str
    options: dict[str, Any]
    class_names: tuple[str, ...]
    preprocessing: dict[str, Any]
    normalisation: dict[str, Any]
    weights: str
    weights_sha256: str | None
    synthetic: bool

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "ModelDescription":
        """The inverse of `dataclasses.asdict`, after a trip through JSON."""
        return cls(**{**values, "class_names": tuple(values["class_names"])})

    def network(self, *, seed: int = 0) -> tuple[Network, Tree, Tree]:
        """The network with random parameters and statistics."""
        return registry.create(self.name, seed=seed, **self._sizes_and_options())

    def abstract_network(self) -> tuple[Network, Tree, Tree]:
        """The network with shapes and dtypes for its parameters and statistics."""
        return registry.create_abstract(self.name, **self._sizes_and_options())

    def _sizes_and_options(self) -> dict[str, Any]:
        options = {key: tuple(value) if isinstance(value, list) else value for key, value in self.options.items()}
        return {"classes": len(self.class_names), "size": self.preprocessing["size"], **options}

    def normaliser(self) -> Normalisation:
        """From grey pixels to what the network expects."""
        return Normalisation(**{key: tuple(value) for key, value in self.normalisation.items()})


@dataclasses.dataclass(frozen=True)
class Model:
    """A model ready to predict; for a cross-validation the mean of its folds' probabilities.

    Attributes:
      description: of the first member.
      preprocessing: from a decoded image to what the network sees.
      members: functions from [N, S, S] uint8 to logits [N, classes].
      folders: workdirs of the members.
      temperature: of the probabilities; None where none is stored, then they are not calibrated.
    """

    description: ModelDescription
    preprocessing: Preprocessing
    members: Sequence[Callable[[np.ndarray], np.ndarray]]
    folders: tuple[pathlib.Path, ...]
    temperature: Temperature | None = None

    @property
    def class_names(self) -> tuple[str, ...]:
        """In the order of the probabilities."""
        return self.description.class_names

    @property
    def notice(self) -> str | None:
        """What everything made with this model must say."""
        return SYNTHETIC_NOTICE if self.description.synthetic else None

    def logits(self, images: np.ndarray) -> np.ndarray:
        """Of preprocessed images: [N, S, S] uint8 -> [members, N, classes]."""
        if not len(images):
            return np.zeros((len(self.members), 0, len(self.class_names)))
        return np.stack([member(images) for member in self.members])

    def probabilities_of(self, logits: np.ndarray, *, calibrated: bool = True) -> np.ndarray:
        """[members, N, classes] -> [N, classes] float64: each member's at the temperature, then their mean."""
        by = self.temperature.value if self.temperature and calibrated else 1.0
        return np.asarray(calibration.softmax(logits, by).mean(axis=0))

    def probabilities(self, images: np.ndarray) -> np.ndarray:
        """Of preprocessed images, calibrated where a temperature is stored: [N, S, S] uint8 -> [N, classes] float64."""
        return self.probabilities_of(self.logits(images))


def restore(folder: str | os.PathLike[str], step: int | None = None) -> tuple[ModelDescription, Tree]:
    """What a run keeps of a model at a step, by default its best one.

    Returns:
      The description, and {`params`, `batch_stats`} on the first device.

    Raises:
      UsageError: no run there.
    """
    best_step, metadata = checkpoint.best_metadata(folder)
    description = ModelDescription.from_dict(metadata["model"])
    return description, _weights(folder, best_step if step is None else step, *description.abstract_network()[1:])


def _weights(folder: str | os.PathLike[str], step: int, params: Tree, batch_stats: Tree) -> Tree:
    here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    tree = checkpoint.abstract({"params": params, "batch_stats": batch_stats}, here)
    weights: Tree = checkpoint.restore_for_evaluation(folder, step, tree)
    return weights


def load(path: str | os.PathLike[str], *, batch_size: int = 32) -> Model:
    """Loads the best checkpoint of a run, or of every fold of a cross-validation.

    Args:
      path: workdir.
      batch_size: images in a step. Fewer are filled up to a power of two; each such number is a program of its own.

    Raises:
      UsageError: no run there, or folds that do not fit together.
    """
    folder = pathlib.Path(path)
    folds = sorted(folder.glob("fold_*")) or [folder]
    if folds != [folder] and not (folder / "cross_validation.json").exists():
        raise UsageError(
            f"the cross-validation in {folder} is not finished: run it to its end, or name one of its folds"
        )
    descriptions, members, temperatures = [], [], []
    for fold in folds:
        step, metadata = checkpoint.best_metadata(fold)
        description = ModelDescription.from_dict(metadata["model"])
        network, *shapes = description.abstract_network()
        weights = _weights(fold, step, *shapes)
        temperatures.append(calibration.read(fold, step=step))
        forward = make_forward(network, normalisation=description.normaliser(), dtype=jnp.dtype("float32"))
        descriptions.append(description)
        members.append(functools.partial(_logits_of, forward, weights, batch_size))
    first = descriptions[0]
    if any((d.class_names, d.preprocessing) != (first.class_names, first.preprocessing) for d in descriptions):
        raise UsageError(f"the folds in {folder} differ in classes or preprocessing: they are no cross-validation")
    # The members of an ensemble share the one that was fitted on the answers of all: see `cross_validation`.
    temperature = temperatures[0] if folds == [folder] else calibration.read(folder)
    return Model(first, Preprocessing.from_dict(first.preprocessing), members, tuple(folds), temperature)
