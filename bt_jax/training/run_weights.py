"""The weights of a run of one's own as the start of another."""

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any

import jax

from bt_jax.common.errors import UsageError
from bt_jax.inference import trained_model
from bt_jax.inference.description import ModelDescription
from bt_jax.models.pretrained.sources import Weights
from bt_jax.models.registry import Network, Tree
from bt_jax.workdir import checkpoint


def is_run(path: str) -> bool:
    """Whether `path` is the workdir of a run."""
    return (pathlib.Path(path).expanduser() / checkpoint.FOLDER).is_dir()


def of_run(path: str, *, model: str) -> Weights:
    """The best checkpoint of a run, to start another run of the same model from.

    Raises:
      UsageError: the run has no checkpoint or is of another model.
    """
    folder = pathlib.Path(path).expanduser()
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
        """All segments of the run; its head only where that has the same sizes, or `head` demands it.

        Raises:
          UsageError: segments of the run have other sizes than those of the network.
        """
        assert self.path is not None
        _, found = trained_model.restore(self.path)
        last = network.segment_names[-1]
        different = {
            name for name in network.segment_names if _shapes(found["params"].get(name)) != _shapes(params[name])
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


def _shapes(tree: Any) -> Any:
    return jax.tree.map(lambda leaf: leaf.shape, tree)
