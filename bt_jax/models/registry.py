"""All models by name, and networks as pure functions of their parameters."""

import dataclasses
import functools
import inspect
from collections.abc import Callable, Collection, Mapping
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
    """A constructor (classes=..., size=..., seed=..., **options), and the native side of its images in pixels."""

    construct: Callable[..., SegmentedModel]
    size: int


# A new family needs one line here.
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
    """A model without its arrays: its structure, and a pure function of parameters and running statistics."""

    name: str
    size: int  # side of its images in pixels
    segment_names: tuple[str, ...]
    graph: nnx.GraphDef
    pooled_head: bool  # whether the head begins with global average pooling, so it also accepts pooled features
    grids: tuple[Grid | None, ...]  # of the input of each segment; None if it is not a map

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
        mixed: Collection[str] = (),
        by_pairs: bool = False,
    ) -> tuple[jax.Array, Tree]:
        """Runs the segments from `start` up to `stop` and returns their output and the new running statistics.

        Arguments as in `SegmentedModel.__call__`; `x` is [B, H, W, 3], the logits are [B, classes] float32.
        """
        model = nnx.merge(self.graph, nnx.State(params), nnx.State(batch_stats), copy=True)
        outputs = model(
            x, start=start, stop=stop, trained=trained, dropout_key=dropout_key, mixed=mixed, by_pairs=by_pairs
        )
        return outputs, nnx.to_pure_dict(nnx.state(model, BatchStat))


def get_native_size(name: str) -> int:
    """Returns the native side of a model's images in pixels."""
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
      size: side of the images in pixels; the parameters of some models depend on it. None: the native size.
      seed: of the initial weights.
      **options: options of the family's constructor, such as `hidden` and `dropout_rate`.

    Returns:
      The network, its parameters and its running statistics, both trees with the segments as first keys. Segments
      without BatchNorm have no statistics.

    Raises:
      UsageError: there is no such model, or it does not have an option.
    """
    construct, size = _bind_constructor(name, classes=classes, size=size, seed=seed, **options)
    return _split_model(name, construct(), size=size)


def create_abstract(name: str, *, classes: int, size: int | None = None, **options: Any) -> tuple[Network, Tree, Tree]:
    """Builds the trees of `create` with `jax.ShapeDtypeStruct` in place of arrays, in a fraction of the time."""
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
    """Returns the checked call that builds a model, and the side of its images."""
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
