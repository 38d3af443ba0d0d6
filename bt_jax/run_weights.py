"""The weights of a run of one's own as the start of another."""

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any

import jax

from bt_jax import checkpoint, inference
from bt_jax.errors import UsageError
from bt_jax.models.pretrained.sources import Weights
from bt_jax.models.registry import Network, Tree


def is_run(path: str) -> bool:
    """Whether `path` is the workdir of a run."""
    return (pathlib.Path(path).expanduser() / checkpoint.FOLDER).is_dir()


def of_run(path: str, *, model: str) -> Weights:
    """The best checkpoint of a run, to start another run of the same model from.

    Raises:
      UsageError: the run has no checkpoint or is of another model.
    """
    folder = pathlib.Path(path).expanduser()
    step, metadata = checkpoint.best_metadata(folder)
    description = inference.ModelDescription.from_dict(metadata["model"])
    if description.name != model:
        raise UsageError(f"{path} is a run of {description.name}: set config.model.name to that, not to {model}")
    return _RunWeights(
        model=model,
        source=f"run {path}, step {step}, which started from {description.weights}",
        path=folder,
        sha256=None,
        normalisation=description.normaliser(),
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
        """All segments of the run; its head only where that has the same sizes, or `head` demands it."""
        assert self.path is not None
        _, found = inference.restore(self.path)
        last = network.segment_names[-1]
        shapes = [jax.tree.map(lambda leaf: leaf.shape, tree[last]) for tree in (found["params"], dict(params))]
        if head or shapes[0] == shapes[1]:
            return found["params"], found["batch_stats"]
        below_head = {kind: {name: tree for name, tree in found[kind].items() if name != last} for kind in found}
        return {**params, **below_head["params"]}, {**batch_stats, **below_head["batch_stats"]}
