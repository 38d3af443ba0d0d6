"""The models by name, as plain functions of their parameters."""

import dataclasses
import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import nnx

from bt_jax.common.errors import UsageError
from bt_jax.models import cnn, efficientnet, mlp, vgg
from bt_jax.models.layers import BatchStat, Head, Trained
from bt_jax.models.segments import Grid, SegmentedModel

# {segment: nested dicts of arrays}
Tree = dict[str, Any]


class Architecture(NamedTuple):
    """A constructor (classes=..., size=..., seed=..., **options), and the side in pixels of the images it is for."""

    construct: Callable[..., SegmentedModel]
    size: int


# A new family is one line here.
ARCHITECTURES = {
    **{
        name: Architecture(functools.partial(efficientnet.efficientnet, name), s.size)
        for name, s in efficientnet.VARIANTS.items()
    },
    "mlp": Architecture(mlp.mlp, 64),
    "cnn": Architecture(cnn.cnn, 96),
    "vgg16": Architecture(functools.partial(vgg.vgg, "vgg16"), 224),
    "vgg_nano": Architecture(functools.partial(vgg.vgg, "vgg_nano"), 64),
}


@dataclasses.dataclass(frozen=True)
class Network:
    """A model as data: its structure, and the functions that apply it to parameters and statistics kept apart."""

    name: str
    size: int  # side in pixels of the images that it is built for
    segment_names: tuple[str, ...]
    graph: nnx.GraphDef
    pooled_head: bool  # whether the head begins with global average pooling, so that it takes pooled features alike
    grids: tuple[Grid | None, ...]  # of what goes into each segment; None where that is no map

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


def get_native_size(name: str) -> int:
    """Side of the images that a model is made for, in pixels."""
    return _get_architecture(name).size


def _get_architecture(name: str) -> Architecture:
    if name not in ARCHITECTURES:
        raise UsageError(f"there is no model {name!r}: use one of {', '.join(ARCHITECTURES)}")
    return ARCHITECTURES[name]


def create(
    name: str, *, classes: int, size: int | None = None, seed: int = 0, **options: Any
) -> tuple[Network, Tree, Tree]:
    """Builds the model `name` with random weights.

    Args:
      name: a key of `ARCHITECTURES`.
      classes: number of logits.
      size: side of the images in pixels, on which the parameters of some models depend; None is the native one.
      seed: of the initial weights.
      **options: what the family's constructor takes, such as `hidden` and `dropout_rate`.

    Returns:
      The network, its parameters, and its running statistics, both with the segments as first keys. Segments without
      BatchNorm have no statistics.

    Raises:
      UsageError: for a name that is not there, or an option that the model does not have.
    """
    construct, size = _bind_constructor(name, classes=classes, size=size, seed=seed, **options)
    return _split_model(name, construct(), size=size)


def create_abstract(name: str, *, classes: int, size: int | None = None, **options: Any) -> tuple[Network, Tree, Tree]:
    """As `create`, but with shapes and dtypes (`jax.ShapeDtypeStruct`) for arrays, in a fraction of the time."""
    construct, size = _bind_constructor(name, classes=classes, size=size, seed=_Zeros(np.random.PCG64(0)), **options)
    return _split_model(name, nnx.eval_shape(construct), size=size)


class _Zeros(np.random.Generator):
    """Stands for a seed where only shapes matter: the constructors' generator, which draws nothing."""

    def standard_normal(self, size: Any = None, *arguments: Any, **options: Any) -> Any:
        """Returns zeros that take no memory."""
        return np.broadcast_to(np.float64(0), size)

    def uniform(self, low: Any = 0.0, high: Any = 1.0, size: Any = None) -> Any:
        """Returns zeros that take no memory."""
        return np.broadcast_to(np.float64(0), size)


def _bind_constructor(
    name: str, *, classes: int, size: int | None, seed: Any, **options: Any
) -> tuple[Callable[[], SegmentedModel], int]:
    """The checked call that builds a model, and the side of its images."""
    construct, native = _get_architecture(name)
    size = native if size is None else size
    known = inspect.signature(construct).parameters.keys() - {"classes", "size", "seed"}
    if unknown := options.keys() - known:
        raise UsageError(f"{name} has no option {', '.join(sorted(unknown))}: it has {', '.join(sorted(known))}")
    return functools.partial(construct, classes=classes, size=size, seed=seed, **options), size


def _split_model(name: str, model: SegmentedModel, *, size: int) -> tuple[Network, Tree, Tree]:
    network = Network(
        name=name,
        size=size,
        segment_names=model.segment_names,
        graph=nnx.graphdef(model),
        pooled_head=isinstance(getattr(model, model.segment_names[-1]), Head),
        grids=model.compute_grids(size),
    )
    params, batch_stats = (nnx.to_pure_dict(nnx.state(model, kind)) for kind in (nnx.Param, BatchStat))
    return network, params, batch_stats
