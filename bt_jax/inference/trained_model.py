"""A trained model as a person uses it: preprocessing, the jitted forward, class names. No optimiser, no pipeline."""

import dataclasses
import os
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bt_jax.common.errors import UsageError
from bt_jax.data.augment.augment import to_float
from bt_jax.data.class_labels import SYNTHETIC_NOTICE
from bt_jax.data.preprocess import Preprocessing
from bt_jax.inference import model_file, ood
from bt_jax.inference.ood import Doubt
from bt_jax.metrics import calibration
from bt_jax.metrics.calibration import Temperature
from bt_jax.models import registry
from bt_jax.models.normalise import Normalisation
from bt_jax.models.registry import Network, Tree
from bt_jax.workdir import checkpoint

# Preprocessed images [N, S, S] uint8, N > 0 -> logits [members, N, classes] and features [members, N, D], float32.
Compute = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]
Forward = Callable[[Tree, Tree, jax.Array | np.ndarray], tuple[jax.Array, jax.Array]]


def make_forward(
    network: Network, *, normalisation: Normalisation, dtype: jnp.dtype, shardings: tuple[Any, Any] | None = None
) -> Forward:
    """The jitted function of (params, batch_stats, images [B, S, S] float32 in [0, 1]).

    It returns logits [B, classes] and the features that the last segment decides by, pooled [B, D], both float32.
    `shardings` are those of what goes in and of what comes out; None: on one device.
    """

    def forward(params: Tree, batch_stats: Tree, images: jax.Array) -> tuple[jax.Array, jax.Array]:
        last = network.segment_names[-1]
        x, _ = network.apply(params, batch_stats, normalisation(images, dtype=dtype), stop=last)
        logits, _ = network.apply(params, batch_stats, x, start=last)
        if len(network.segment_names) == 1:  # a network without hidden layers: some of the pixels
            every = max(1, network.size // 32)
            return logits, images[:, ::every, ::every].reshape(images.shape[0], -1)
        return logits, (x.mean((1, 2)) if x.ndim == 4 else x).astype(jnp.float32)

    return jax.jit(forward, in_shardings=shardings[0], out_shardings=shardings[1]) if shardings else jax.jit(forward)


def make_upper_forward(
    network: Network, *, start: str, dtype: jnp.dtype, shardings: tuple[Any, Any] | None = None
) -> Forward:
    """The same of (params, batch_stats, features [B, ...] float32): of the segments from `start` up; logits alone."""

    def forward(params: Tree, batch_stats: Tree, features: jax.Array) -> tuple[jax.Array]:
        logits, _ = network.apply(params, batch_stats, features.astype(dtype), start=start)
        return (logits,)

    return jax.jit(forward, in_shardings=shardings[0], out_shardings=shardings[1]) if shardings else jax.jit(forward)


def outputs_of(
    forward: Callable[..., tuple[jax.Array, ...]], *arguments: Tree, images: np.ndarray, batch_size: int
) -> tuple[np.ndarray, ...]:
    """What a forward makes of preprocessed images, each once: [N, S, S] uint8 -> float32 arrays with N rows.

    Args:
      forward: (*arguments, images [B, S, S] float32 in [0, 1]) -> arrays with B rows.
      *arguments: such as parameters and running statistics.
      images: N > 0; or features [N, ...] float32, for a forward of these.
      batch_size: B; the last batch is filled up.
    """
    parts = []
    for start in range(0, len(images), batch_size):
        part = images[start : start + batch_size]
        padded = np.zeros((batch_size, *images.shape[1:]), np.float32)
        padded[: len(part)] = to_float(part) if part.dtype == np.uint8 else part
        parts.append((forward(*arguments, padded), len(part)))
    return tuple(
        np.concatenate([np.asarray(array)[:valid] for array, (_, valid) in zip(arrays, parts, strict=True)])
        for arrays in zip(*(outputs for outputs, _ in parts), strict=True)
    )


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
class TrainedNetwork:
    """A network with its weights: what explanations look into and exports write."""

    network: Network
    params: Tree
    batch_stats: Tree
    normalisation: Normalisation


class Answers(NamedTuple):
    """What a model makes of N preprocessed images.

    Attributes:
      logits: [members, N, classes] float32.
      doubt: [N] float64, how unlike the training images each is, see `ood`; above 1 its class means nothing. None
        where the model cannot tell.
    """

    logits: np.ndarray
    doubt: np.ndarray | None


@dataclasses.dataclass(frozen=True)
class Model:
    """A model ready to predict; for a cross-validation the mean of its folds' probabilities.

    Attributes:
      description: of the first member.
      preprocessing: from a decoded image to what the network sees.
      compute: its networks' answers.
      networks: the members; none where the model comes as a compiled program.
      folders: workdirs of the members; none where it comes from a file.
      temperature: of the probabilities; None where none is stored, then they are not calibrated.
      doubts: of the members; none where they were not fitted, then nothing is said of unfamiliar images.
    """

    description: ModelDescription
    preprocessing: Preprocessing
    compute: Compute
    networks: tuple[TrainedNetwork, ...]
    folders: tuple[pathlib.Path, ...]
    temperature: Temperature | None = None
    doubts: tuple[Doubt, ...] = ()

    @property
    def class_names(self) -> tuple[str, ...]:
        """In the order of the probabilities."""
        return self.description.class_names

    @property
    def notice(self) -> str | None:
        """What everything made with this model must say."""
        return SYNTHETIC_NOTICE if self.description.synthetic else None

    def answers(self, images: np.ndarray) -> Answers:
        """Of preprocessed images [N, S, S] uint8: logits and doubt, from one run of the network."""
        if not len(images):
            members = max(1, len(self.networks))
            return Answers(np.zeros((members, 0, len(self.class_names)), np.float32), np.zeros(0))
        logits, features = self.compute(images)
        if not self.doubts:
            return Answers(logits, None)
        scores = [one.score(of_member) for one, of_member in zip(self.doubts, features, strict=True)]
        return Answers(logits, np.mean(scores, axis=0))

    def logits(self, images: np.ndarray) -> np.ndarray:
        """Of preprocessed images: [N, S, S] uint8 -> [members, N, classes]."""
        return self.answers(images).logits

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
    """Loads the best checkpoint of a run, or of every fold of a cross-validation, or a file that `export` wrote.

    Args:
      path: workdir, StableHLO or safetensors file.
      batch_size: images in a step. Fewer are filled up to a power of two; each such number is a program of its own.

    Raises:
      UsageError: no run there, folds that do not fit together, or a file that holds no model.
    """
    path = pathlib.Path(path)
    return _from_file(path, batch_size) if path.is_file() else _from_workdir(path, batch_size)


def _from_workdir(folder: pathlib.Path, batch_size: int) -> Model:
    folds = sorted(folder.glob("fold_*")) or [folder]
    if folds != [folder] and not (folder / "cross_validation.json").exists():
        raise UsageError(
            f"the cross-validation in {folder} is not finished: run it to its end, or name one of its folds"
        )
    descriptions, networks, temperatures, doubts = [], [], [], []
    for fold in folds:
        step, metadata = checkpoint.best_metadata(fold)
        description = ModelDescription.from_dict(metadata["model"])
        network, *shapes = description.abstract_network()
        weights = _weights(fold, step, *shapes)
        temperatures.append(calibration.read(fold, step=step))
        doubts.append(ood.read(fold, step=step))
        descriptions.append(description)
        networks.append(TrainedNetwork(network, weights["params"], weights["batch_stats"], description.normaliser()))
    first = descriptions[0]
    if any((d.class_names, d.preprocessing) != (first.class_names, first.preprocessing) for d in descriptions):
        raise UsageError(f"the folds in {folder} differ in classes or preprocessing: they are no cross-validation")
    return Model(
        description=first,
        preprocessing=Preprocessing.from_dict(first.preprocessing),
        compute=_computing(networks, batch_size),
        networks=tuple(networks),
        folders=tuple(folds),
        # The members of an ensemble share the one that was fitted on the answers of all: see `cross_validation`.
        temperature=temperatures[0] if folds == [folder] else calibration.read(folder),
        # The mean over some members only would have another threshold.
        doubts=tuple(known) if len(known := [one for one in doubts if one]) == len(folds) else (),
    )


def _from_file(path: pathlib.Path, batch_size: int) -> Model:
    stored = model_file.read(path)
    try:
        description = ModelDescription.from_dict({**stored.description})
        networks = [_trained(description, weights) for weights in stored.networks]
        preprocessing = Preprocessing.from_dict(description.preprocessing)
    except (TypeError, KeyError, ValueError) as error:
        raise UsageError(f"{path} does not describe a model ({type(error).__name__}: {error})") from error
    return Model(
        description=description,
        preprocessing=preprocessing,
        compute=_running(stored.program, batch_size) if stored.program else _computing(networks, batch_size),
        networks=tuple(networks),
        folders=(),
        temperature=stored.temperature,
        doubts=tuple(stored.doubts),
    )


def _trained(description: ModelDescription, weights: Mapping[str, Tree]) -> TrainedNetwork:
    """The network of a description with weights in it, which must have its shapes."""
    network, params, batch_stats = description.abstract_network()
    expected, given = (
        {jax.tree_util.keystr(where): leaf.shape for where, leaf in jax.tree_util.tree_leaves_with_path(trees)}
        for trees in ((params, batch_stats), (weights["params"], weights["batch_stats"]))
    )
    if expected != given:
        names = sorted(name for name in expected.keys() | given.keys() if expected.get(name) != given.get(name))
        raise ValueError(f"weights that are not those of {description.name}: {', '.join(names[:3])}")
    params, batch_stats = jax.device_put((weights["params"], weights["batch_stats"]), jax.devices()[0])
    return TrainedNetwork(network, params, batch_stats, description.normaliser())


def _computing(networks: Sequence[TrainedNetwork], batch_size: int) -> Compute:
    """`Model.compute` of some networks. Those that differ in nothing but weights share a program."""
    forwards: dict[tuple[Network, Normalisation], Forward] = {}
    for member in networks:
        key = member.network, member.normalisation
        if key not in forwards:
            forwards[key] = make_forward(member.network, normalisation=member.normalisation, dtype=jnp.dtype("float32"))

    def compute(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        logits, features = zip(
            *(
                outputs_of(
                    forwards[member.network, member.normalisation],
                    member.params,
                    member.batch_stats,
                    images=images,
                    batch_size=_rows_of_step(len(images), batch_size),
                )
                for member in networks
            ),
            strict=True,
        )
        return np.stack(logits), np.stack(features)

    return compute


def _rows_of_step(count: int, batch_size: int) -> int:
    """Fewer images than a step holds make a smaller step, of the next power of two."""
    return min(batch_size, 1 << (max(count, 1) - 1).bit_length())


def _running(program: model_file.Program, batch_size: int) -> Compute:
    """`Model.compute` of an exported program."""

    def forward(part: np.ndarray) -> tuple[jax.Array, jax.Array]:
        outputs = program(part)
        return outputs["logits"], outputs["features"]

    def compute(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        logits, features = outputs_of(forward, images=images, batch_size=_rows_of_step(len(images), batch_size))
        return logits.swapaxes(0, 1), features.swapaxes(0, 1)

    return compute
