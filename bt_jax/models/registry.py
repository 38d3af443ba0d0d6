"""The models by name, as plain functions of their parameters."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
from flax import nnx

from bt_jax.errors import UsageError
from bt_jax.models import efficientnet
from bt_jax.models.layers import BatchStat, Trained
from bt_jax.models.segments import SegmentedModel

# {segment: nested dicts of arrays}
Tree = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Network:
    """A model as data: its structure, and the functions that apply it to parameters and statistics kept apart."""

    name: str
    size: int  # native input size in pixels
    segment_names: tuple[str, ...]
    graph: nnx.GraphDef

    def apply(
        self,
        params: Mapping[str, Any],
        batch_stats: Mapping[str, Any],
        x: jax.Array,
        *,
        start: str | None = None,
        stop: str | None = None,
        trained: Trained | tuple[Trained, ...] = False,
        dropout_key: jax.Array | None = None,
    ) -> tuple[jax.Array, Tree]:
        """Runs the segments from `start` up to `stop` and returns their output and the new running statistics.

        Arguments as in `SegmentedModel.__call__`; `x` is [B, H, W, 3], the logits are [B, classes] float32.
        """
        model = nnx.merge(self.graph, nnx.State(params), nnx.State(batch_stats), copy=True)
        outputs = model(x, start=start, stop=stop, trained=trained, dropout_key=dropout_key)
        return outputs, nnx.to_pure_dict(nnx.state(model, BatchStat))


def names() -> tuple[str, ...]:
    """All models that `create` builds."""
    return tuple(efficientnet.VARIANTS)


def native_size(name: str) -> int:
    """Side of the images that a model is made for, in pixels."""
    return efficientnet.VARIANTS[_known(name)].size


def parameter_count(params: Mapping[str, Any]) -> int:
    """Number of trainable values."""
    return sum(leaf.size for leaf in jax.tree.leaves(dict(params)))


def _known(name: str) -> str:
    if name not in names():
        raise UsageError(f"there is no model {name!r}: use one of {', '.join(names())}")
    return name


def create(name: str, *, classes: int, seed: int = 0, **options: Any) -> tuple[Network, Tree, Tree]:
    """Builds the model `name` with random weights.

    Args:
      name: one of `names()`.
      classes: number of logits.
      seed: of the initial weights.
      **options: what the family's constructor takes, such as `hidden` and `dropout_rate`.

    Returns:
      The network, its parameters, and its running statistics, both with the segments as first keys.

    Raises:
      UsageError: for a name that is not there.
    """
    model: SegmentedModel = efficientnet.efficientnet(_known(name), classes=classes, seed=seed, **options)
    graph = nnx.graphdef(model)
    network = Network(
        name=name,
        size=native_size(name),
        segment_names=model.segment_names,
        graph=graph,
    )
    params, batch_stats = (nnx.to_pure_dict(nnx.state(model, kind)) for kind in (nnx.Param, BatchStat))
    return network, params, batch_stats
