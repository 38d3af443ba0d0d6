"""What a run starts from: pretrained or random weights, another run, or its own last checkpoint."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np

from bt_jax.common import files
from bt_jax.common.errors import UsageError
from bt_jax.data.partition import Partition
from bt_jax.data.preprocess import Preprocessing, scale_size
from bt_jax.distributed.processes import say
from bt_jax.inference import jax_model
from bt_jax.inference.description import ModelDescription
from bt_jax.models import registry
from bt_jax.models.normalise import Normalisation
from bt_jax.models.pretrained import sources
from bt_jax.models.pretrained.sources import Weights
from bt_jax.models.registry import Network, Tree
from bt_jax.training.progress import Progress
from bt_jax.training.train_state import STATE_FORMAT, TrainState, restore_state
from bt_jax.workdir import checkpoint
from bt_jax.workdir.checkpoint import Checkpoints


class StartingModel(NamedTuple):
    """A network and what it starts with."""

    description: ModelDescription
    network: Network
    params: Tree
    batch_stats: Tree


class Start(Protocol):
    """What a run starts from. There are two kinds, and `is_resumed` says which one it is.

    Attributes:
      is_resumed: whether the run has been trained before.
      preprocessing: of the images.
      class_names: those that the run began with; None before it begins.
    """

    is_resumed: bool
    preprocessing: Preprocessing
    class_names: tuple[str, ...] | None

    def create_model(self, data: Partition) -> StartingModel:
        """Creates the network and the parameters to start with."""

    def load_state(self, state: TrainState) -> tuple[TrainState, Progress]:
        """Returns the state to start with, given the one made of the starting model, and where the run stands."""


class FreshStart:
    """The start of a run from pretrained or random weights, or from the weights of another run.

    Args:
      weights: from `find_weights`.
      options: of the model's constructor.
      preprocess: arguments of `Preprocessing`; a `size` of 0 is the model's native size.
      seed: of the random weights.
      scale: of the images that the finished model takes, to those of training.
      mirrored: whether the finished model answers with the mean over an image and its mirror image.
    """

    is_resumed = False
    class_names: tuple[str, ...] | None = None

    def __init__(
        self,
        weights: Weights,
        *,
        options: Mapping[str, Any],
        preprocess: Mapping[str, Any],
        seed: int,
        scale: float = 1.0,
        mirrored: bool = False,
    ):
        self._weights, self._options, self._seed, self._mirrored = weights, options, seed, mirrored
        size = preprocess["size"] or registry.get_native_size(weights.model)
        self.preprocessing = Preprocessing(**{**preprocess, "size": scale_size(size, scale)})

    def create_model(self, data: Partition) -> StartingModel:
        """Creates the network with the weights; if these are random, with statistics of the training images."""
        weights = self._weights
        description = ModelDescription(
            name=weights.model,
            options={**weights.options, **self._options},
            class_names=data.source.class_names,
            preprocessing=self.preprocessing.to_dict(),
            normalisation=dataclasses.asdict(weights.normalisation),
            weights=weights.source,
            weights_sha256=weights.sha256,
            synthetic=data.source.synthetic,
            mirrored=self._mirrored,
        )
        network, params, batch_stats = description.create_network(seed=self._seed)
        params, batch_stats = weights.load(network, params, batch_stats)
        if weights.path is None and jax.tree.leaves(batch_stats):
            batch_stats = _measure_statistics(description, params, batch_stats, data, weights.normalisation)
        return StartingModel(description, network, params, batch_stats)

    def load_state(self, state: TrainState) -> tuple[TrainState, Progress]:
        """Returns the state as it is, and no progress."""
        return state, Progress()


class ResumedStart:
    """The start of a run from its latest checkpoint.

    The network is the one that the run began with, whatever weights could be found now.

    Args:
      checkpoints: of the run.
      step: of the latest of them.
    """

    is_resumed = True

    def __init__(self, checkpoints: Checkpoints, step: int):
        self._checkpoints, self._step = checkpoints, step
        metadata = checkpoints.read_metadata(step)
        if metadata.get("state_format") != STATE_FORMAT:
            raise UsageError(
                f"the run in {checkpoints.workdir} began with a version of bt_jax that kept its optimiser in another "
                "form, so it cannot be resumed: train in another --workdir, from the weights of this one with "
                "--config.model.weights if you like; predict, evaluate, serve and export read it as before"
            )
        self._description = ModelDescription.from_dict(metadata["model"])
        self._progress = Progress.from_dict(metadata["progress"])
        self.preprocessing = Preprocessing.from_dict(self._description.preprocessing)
        self.class_names: tuple[str, ...] | None = self._description.class_names

    def create_model(self, data: Partition) -> StartingModel:
        """Creates the network with random weights, which `load_state` replaces."""
        del data
        return StartingModel(self._description, *self._description.create_network())

    def load_state(self, state: TrainState) -> tuple[TrainState, Progress]:
        """Returns the saved state, with the shapes, dtypes and shardings of the given one, and its progress."""
        progress = self._progress
        if progress.best_step is not None and progress.best_step not in self._checkpoints.steps:
            say(f"warning: the checkpoint of the best step, {progress.best_step}, is lost: the best is chosen anew")
            progress.forget_best()
        state = restore_state(self._checkpoints, self._step, like=state)
        say(f"resuming from step {self._step}, in stage {progress.stage}")
        return state, progress


def find_weights(weights: str, *, model: str, fallback: str | None) -> Weights:
    """Finds the weights of a fresh run, and prints what their source has to say.

    Args:
      weights: `imagenet`, `none`, the workdir of a run, or a file.
      model: name of the model.
      fallback: name of the model to take when there are no ImageNet weights for `model`; None: that is an error.

    Raises:
      UsageError: there are none, or they are of another model.
    """
    if is_run(weights):
        return read_run_weights(weights, model=model)
    found = sources.resolve(weights, model=model, fallback=fallback)
    if found.notice:
        say(f"note: {found.notice}")
    return found


def _measure_statistics(
    description: ModelDescription, params: Tree, batch_stats: Tree, data: Partition, normalisation: Normalisation
) -> Tree:
    """Returns the running statistics that a network with random weights has on about 64 training images."""
    by_batch = {"batch_statistics": True} if "batch_statistics" in description.options else {}
    if by_batch and not description.options["batch_statistics"]:
        say(
            "warning: BatchNorm keeps statistics that the random weights gave on 64 images: "
            "config.model.batch_statistics=True suits a network without pretrained weights"
        )
    forgetful = dataclasses.replace(description, options={**description.options, "momentum": 0.0, **by_batch})
    images = data.training.images[:: math.ceil(len(data.training) / 64)]
    return calibrate_statistics(
        forgetful.create_network()[0], params, batch_stats, images=images, normalisation=normalisation
    )


def calibrate_statistics(
    network: Network, params: Tree, batch_stats: Tree, *, images: np.ndarray, normalisation: Normalisation
) -> Tree:
    """Measures running statistics on images, for a network with random weights.

    The initial ones fit no data: with them, a frozen network outputs almost zero. The head learns its own.

    Args:
      network: built with a BatchNorm momentum of 0, so that a single batch replaces the statistics.
      params: of the network.
      batch_stats: of the network.
      images: [B, S, S], uint8 or float32 in [0, 1].
      normalisation: from grey pixels to what the network expects.
    """

    @jax.jit
    def measure(params: Tree, batch_stats: Tree, images: jax.Array) -> Tree:
        head, key = network.segment_names[-1], jax.random.key(0)
        return network.apply(params, batch_stats, normalisation(images), stop=head, trained=True, dropout_key=key)[1]

    return measure(params, batch_stats, images)


def is_run(path: str) -> bool:
    """Returns whether `path` is the workdir of a run."""
    return (files.expand(path) / checkpoint.FOLDER).is_dir()


def read_run_weights(path: str, *, model: str) -> Weights:
    """Returns the weights in the best checkpoint of a run, for another run of the same model.

    Raises:
      UsageError: the run has no checkpoint or is of another model.
    """
    folder = files.expand(path)
    step, metadata = checkpoint.read_best_metadata(folder)
    description = ModelDescription.from_dict(metadata["model"])
    if description.name != model:
        raise UsageError(f"{path} is a run of {description.name}: set config.model.name to that, not to {model}")
    return _RunWeights(
        model=model,
        source=f"run {path}, step {step}, which started from {description.weights}",
        path=folder,
        sha256=None,
        normalisation=description.create_normalisation(),
        options={
            name: description.options[name]
            for name in ("padding", "epsilon", "momentum")
            if name in description.options
        },
    )


@dataclasses.dataclass(frozen=True)
class _RunWeights(Weights):
    """Reads a checkpoint where `Weights` reads a file."""

    def load(
        self, network: Network, params: Mapping[str, Any], batch_stats: Mapping[str, Any], *, head: bool = False
    ) -> tuple[Tree, Tree]:
        """Loads all segments of the run; the head only if it has the same sizes or `head` requires it.

        Raises:
          UsageError: segments of the run have other sizes than those of the network.
        """
        assert self.path is not None
        _, found = jax_model.restore(self.path)
        last = network.segment_names[-1]
        different = {
            name
            for name in network.segment_names
            if _get_shapes(found["params"].get(name)) != _get_shapes(params[name])
        }
        if wrong := [name for name in network.segment_names if name in different and (head or name != last)]:
            raise UsageError(
                f"{self.path}: its model differs in {', '.join(wrong)}: set config.model and config.preprocess.size "
                "as in that run"
            )
        kept = network.segment_names[:-1] if last in different else network.segment_names
        return (
            {**params, **{name: found["params"][name] for name in kept}},
            {**batch_stats, **{name: found["batch_stats"][name] for name in kept if name in found["batch_stats"]}},
        )


def _get_shapes(tree: Any) -> Any:
    return jax.tree.map(lambda leaf: leaf.shape, tree)
