"""A model layer by layer: shapes, parameters and floating-point operations, found by tracing."""

import dataclasses
import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from clu import parameter_overview
from jax.extend import core

from bt_jax.models.registry import Network

Shape = tuple[int, ...]
# The origin of a value: the paths of the parameters it is computed from, or None if it depends on an image.
_Origin = frozenset[str] | None


@dataclasses.dataclass(frozen=True)
class Layer:
    """A layer with parameters, such as a convolution.

    Attributes:
      name: within its segment, such as `squeeze_excite.reduce`; empty for a segment that is a single layer.
      shape: shape of its output for one image, without the batch.
      parameters: number of trainable values.
      flops: floating-point operations of the forward pass of one image: two for each multiply-add of a convolution or
        matrix product. Sums, activations, means and normalisations are not counted.
    """

    name: str
    shape: Shape
    parameters: int
    flops: int


@dataclasses.dataclass(frozen=True)
class Segment:
    """A part of a network that stages freeze as a whole: its name, output shape for one image, and layers."""

    name: str
    shape: Shape
    layers: tuple[Layer, ...]

    @property
    def parameters(self) -> int:
        """Number of trainable values."""
        return sum(layer.parameters for layer in self.layers)

    @property
    def flops(self) -> int:
        """Floating-point operations of the forward pass of one image, see `Layer`."""
        return sum(layer.flops for layer in self.layers)

    def has_same_layers(self, other: "Segment") -> bool:
        """Returns whether two segments differ only in name."""
        return (self.shape, self.layers) == (other.shape, other.layers)


def summarise(
    network: Network, params: Mapping[str, Any], batch_stats: Mapping[str, Any], *, size: int
) -> tuple[Segment, ...]:
    """Traces a network for one image of `size` x `size` pixels, in the form that accelerators run.

    The forms of layers for the CPU compute the same and are ignored, so the counts are the same on every platform.
    """
    x = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
    found = []
    for name, after in itertools.zip_longest(network.segment_names, network.segment_names[1:]):

        def run(params: Any, batch_stats: Any, x: jax.Array, start: str = name, stop: str | None = after) -> jax.Array:
            return network.apply(params, batch_stats, x, start=start, stop=stop)[0]

        traced = jax.make_jaxpr(run)(dict(params), dict(batch_stats), x)
        x = jax.ShapeDtypeStruct(traced.out_avals[0].shape, traced.out_avals[0].dtype)
        found.append(Segment(name, x.shape[1:], _find_layers(traced, params, batch_stats, segment=name)))
    return tuple(found)


def count_total(parts: Sequence[Segment]) -> tuple[int, int]:
    """Counts parameters, and floating-point operations of the forward pass of one image."""
    return sum(part.parameters for part in parts), sum(part.flops for part in parts)


def count_parameters(params: Mapping[str, Any]) -> int:
    """Counts the trainable values in a tree of arrays."""
    return int(parameter_overview.count_parameters(dict(params)))


def format_parameters(params: Mapping[str, Any]) -> str:
    """Formats all arrays of a tree as a table with name, shape, dtype and size, and their sum in values and bytes."""
    overview: str = parameter_overview.get_parameter_overview(dict(params), include_stats=False)
    return overview


def group_repeated(parts: Sequence[Segment]) -> list[list[Segment]]:
    """Groups neighbours that differ only in name."""
    grouped: list[list[Segment]] = []
    for part in parts:
        if grouped and grouped[-1][-1].has_same_layers(part):
            grouped[-1].append(part)
        else:
            grouped.append([part])
    return grouped


def format_table(parts: Sequence[Segment]) -> str:
    """Formats a table of all layers: segment, layer, output, parameters, operations, with sums by segment and in total.

    The layers of a segment that repeats the one before it are left out.
    """
    rows = [("segment", "layer", "output", "parameters", "MFLOP")]
    for group in group_repeated(parts):
        for part in group:
            only = part.layers[0].name if len(part.layers) == 1 else ""
            note = only if part is group[0] else f"as {group[0].name}"
            rows.append((part.name, note, format_shape(part.shape), f"{part.parameters:,}", format_mega(part.flops)))
            if not note:
                rows += [
                    ("", layer.name, format_shape(layer.shape), f"{layer.parameters:,}", format_mega(layer.flops))
                    for layer in part.layers
                ]
    parameters, flops = count_total(parts)
    rows.append(("all", "", format_shape(parts[-1].shape), f"{parameters:,}", format_mega(flops)))
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = [
        "  ".join([f"{cell:<{width}}" for cell, width in zip(row[:3], widths[:3], strict=True)])
        + "".join([f"  {cell:>{width}}" for cell, width in zip(row[3:], widths[3:], strict=True)])
        for row in rows
    ]
    rule = "-" * len(lines[0])
    return "\n".join(line.rstrip() for line in [lines[0], rule, *lines[1:-1], rule, lines[-1]])


def format_shape(shape: Shape) -> str:
    """Formats a shape, such as `120 x 120 x 32`."""
    return " x ".join(map(str, shape))


def format_mega(flops: int) -> str:
    """Formats operations in millions, such as `9,248.4` or `0.627`; empty for none."""
    millions = flops / 1e6
    return "" if not flops else f"{millions:,.1f}" if millions >= 10 else f"{millions:.3g}"


def _find_layers(
    traced: core.ClosedJaxpr, params: Mapping[str, Any], batch_stats: Mapping[str, Any], *, segment: str
) -> tuple[Layer, ...]:
    """Returns the layers of a segment in the order in which the data reaches them.

    An equation that combines data with values computed from parameters belongs to the layers of these parameters. A
    convolution or matrix product belongs to the layer of its kernel, which is the parameter with the most dimensions,
    since the scale of a BatchNorm may be multiplied into it.
    """
    leaves = [
        (tuple(str(key.key) for key in path), leaf)
        for tree in (dict(params), dict(batch_stats))
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    ]
    names = [".".join(path) for path, _ in leaves]
    dimensions = {name: leaf.ndim for name, (_, leaf) in zip(names, leaves, strict=True)}
    sizes: dict[str, int] = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(params.get(segment, {})):
        owner = ".".join([segment, *(str(key.key) for key in path[:-1])])
        sizes[owner] = sizes.get(owner, 0) + leaf.size

    shapes: dict[str, Shape] = {}
    flops = dict.fromkeys(sizes, 0)
    origins: list[_Origin] = [*(frozenset([name]) for name in names), None]
    for equation, made_of in _find_meetings(traced.jaxpr, origins)[0]:
        for owner in sorted({_get_owner(name) for name in made_of}):
            if owner in sizes:
                shapes[owner] = _get_shape(equation.outvars[0])[1:]
        if operations := _count_operations(equation):
            kernel = max(sorted(made_of), key=dimensions.__getitem__)
            flops[_get_owner(kernel)] += operations
    return tuple(
        Layer(owner.removeprefix(segment).removeprefix("."), shape, sizes[owner], flops[owner])
        for owner, shape in shapes.items()
    )


def _get_owner(parameter: str) -> str:
    return parameter.rpartition(".")[0]


def _find_meetings(
    jaxpr: core.Jaxpr, origins: Sequence[_Origin]
) -> tuple[list[tuple[core.JaxprEqn, frozenset[str]]], list[_Origin]]:
    """Returns the equations that combine data and parameters, with these parameters, and the origins of the outputs."""
    found: list[tuple[core.JaxprEqn, frozenset[str]]] = []
    origin: dict[core.Var, _Origin] = dict(zip(jaxpr.invars, origins, strict=True))
    origin |= {variable: frozenset() for variable in jaxpr.constvars}

    def get_origin(variable: core.Var | core.Literal) -> _Origin:
        return frozenset() if isinstance(variable, core.Literal) else origin[variable]

    for equation in jaxpr.eqns:
        inputs = [get_origin(variable) for variable in equation.invars]
        inner = _get_inner(equation)
        if inner is not None:
            meetings, outputs = _find_meetings(inner, inputs[-len(inner.invars) :] if inner.invars else [])
            found += meetings
        else:
            made_of = frozenset[str]().union(*(names for names in inputs if names is not None))
            outputs = [None if None in inputs else made_of] * len(equation.outvars)
            if None in inputs and made_of:
                found.append((equation, made_of))
        origin |= dict(zip(equation.outvars, outputs, strict=True))
    return found, [get_origin(variable) for variable in jaxpr.outvars]


def _get_inner(equation: core.JaxprEqn) -> core.Jaxpr | None:
    """Returns the program that an equation calls; for one that depends on the platform, the default branch."""
    if "branches_platforms" in equation.params:
        default = equation.params["branches_platforms"].index(None)
        return equation.params["branches"][default].jaxpr
    called = equation.params.get("jaxpr") or equation.params.get("call_jaxpr")
    if called is None:
        return None
    return getattr(called, "jaxpr", called)


def _count_operations(equation: core.JaxprEqn) -> int:
    """Counts two operations for each multiply-add of a convolution or matrix product."""
    shapes = [_get_shape(variable) for variable in equation.invars]
    outputs = math.prod(_get_shape(equation.outvars[0]))
    if equation.primitive.name == "dot_general":
        (contracted, _), _ = equation.params["dimension_numbers"]
        return 2 * outputs * math.prod(shapes[0][axis] for axis in contracted)
    if equation.primitive.name == "conv_general_dilated":
        channels_out = shapes[1][equation.params["dimension_numbers"].rhs_spec[0]]
        return 2 * outputs * math.prod(shapes[1]) // channels_out
    return 0


def _get_shape(variable: core.Var | core.Literal) -> Shape:
    assert isinstance(variable.aval, jax.core.ShapedArray)  # the only kind of input and output of layers
    return variable.aval.shape
