"""Networks as an ONNX graph, written layer by layer.

Writing the graph directly is less code than a general converter, needs no second framework, and gives the graph that
runtimes and quantisers support best.

Input `images`: [batch, S, S] float32, preprocessed, in [0, 1]. Outputs:

- `probabilities` [batch, classes], calibrated;
- `logits` [networks, batch, classes];
- `features` [networks, batch, D], what the last segment takes, for the out-of-distribution models;
- `class_maps` [networks, batch, classes, h, w], the class activation maps, if the heads are linear.

The metadata is that of `onnx_model`.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from flax import nnx

from bt_jax.inference import onnx_model
from bt_jax.inference.forward import choose_stride
from bt_jax.inference.model_header import ModelHeader
from bt_jax.inference.onnx_engine import IMAGES
from bt_jax.inference.onnx_layers import Graph, Value, add_segment
from bt_jax.inference.onnx_model import CLASS_MAPS, FEATURES, LOGITS
from bt_jax.inference.trained_network import TrainedNetwork
from bt_jax.models import layers


def build(networks: Sequence[TrainedNetwork], *, size: int, header: ModelHeader) -> bytes:
    """Builds the ONNX file of an ensemble of one or more networks.

    Args:
      networks: the networks with their weights.
      size: side of the images in pixels.
      header: what the file stores beside the graph.

    Raises:
      UsageError: the package onnx is missing, or a network has an unsupported segment.
    """
    graph = Graph()
    grey = graph.add("Unsqueeze", IMAGES, graph.add_constant("axis_of_channels", np.array([1], np.int64)))
    members = [_add_network(graph, grey, member, size=size, prefix=f"network_{n}") for n, member in enumerate(networks)]
    graph.prefix = "together"
    outputs = {LOGITS: [member.logits for member in members], FEATURES: [member.features for member in members]}
    maps = [member.class_maps for member in members if member.class_maps]
    if len(maps) == len(members):
        outputs[CLASS_MAPS] = maps
    for name, values in outputs.items():
        graph.add("Concat", *(_add_axis(graph, value) for value in values), axis=0, output=name)
    temperature = header.temperature.value if header.temperature else 1.0
    scaled = graph.add("Mul", LOGITS, graph.add_constant("factor", np.float32(1 / temperature)))
    each = graph.add("Softmax", scaled, axis=-1)
    graph.add("ReduceMean", each, axes=[0], keepdims=0, output="probabilities")
    shapes: dict[str, tuple[Any, ...]] = {"probabilities": ("batch", *members[0].logits.shape)}
    shapes |= {name: (len(values), "batch", *values[0].shape) for name, values in outputs.items()}
    grid = networks[0].network.grids[-1] if CLASS_MAPS in outputs else None
    metadata = onnx_model.encode_metadata(header, grid={"first": grid.first, "step": grid.step} if grid else None)
    return graph.serialise(inputs={IMAGES: ("batch", size, size)}, outputs=shapes, metadata=metadata)


class _Member(NamedTuple):
    """The outputs of a network: logits [classes], features [D] and class activation maps [classes, h, w]."""

    logits: Value
    features: Value
    class_maps: Value | None


def _add_network(graph: Graph, grey: str, member: TrainedNetwork, *, size: int, prefix: str) -> _Member:
    model = nnx.merge(member.network.graph, nnx.State(member.params), nnx.State(member.batch_stats), copy=True)
    graph.prefix = prefix
    if member.mirrored:
        grey = _add_mirror_images(graph, grey, size=size)
    x = Value(_add_normalisation(graph, grey, member), shape=(3, size, size))
    *lower, last = member.network.segment_names
    for name in lower:
        graph.prefix = f"{prefix}.{name}"
        x = add_segment(graph, getattr(model, name), x)
    graph.prefix = f"{prefix}.{last}"
    head = getattr(model, last)
    linear = isinstance(head, layers.Head) and not head.hidden
    logits, maps = add_segment(graph, head, x), _add_class_maps(graph, head.output, x) if linear else None
    features = _add_features(graph, x) if lower else _add_pixels(graph, grey, size)
    if not member.mirrored:
        return _Member(logits, features, maps)
    # Of the maps, those of the images themselves: where the network looks in them.
    return _Member(_add_mean(graph, logits), _add_mean(graph, features), maps and _add_first(graph, maps))


def _add_mirror_images(graph: Graph, grey: str, *, size: int) -> str:
    """Adds the mirror images after the images: [B, 1, S, S] -> [2 B, 1, S, S]. Returns the name of the output."""
    # From the last pixel of a row backwards; no row ends before that.
    arrays = {"last": [size - 1], "before_first": [-size - 1], "axis": [3], "backwards": [-1]}
    limits = [graph.add_constant(name, np.array(array, np.int64)) for name, array in arrays.items()]
    return graph.add("Concat", grey, graph.add("Slice", grey, *limits), axis=0)


def _add_halves(graph: Graph, x: Value) -> str:
    """Adds the division of a batch into images and mirror images: [2 B, ...] -> [2, B, ...]."""
    return graph.add("Reshape", x.name, graph.add_constant("halves", np.array([2, -1, *x.shape], np.int64)))


def _add_mean(graph: Graph, x: Value) -> Value:
    return Value(graph.add("ReduceMean", _add_halves(graph, x), axes=[0], keepdims=0), shape=x.shape)


def _add_first(graph: Graph, x: Value) -> Value:
    first = graph.add_constant("first", np.array(0, np.int64))
    return Value(graph.add("Gather", _add_halves(graph, x), first, axis=0), shape=x.shape)


def _add_features(graph: Graph, x: Value) -> Value:
    """Adds the features for the OOD model, as `forward.make_forward` computes them."""
    if len(x.shape) == 1:
        return x
    return Value(graph.add("Flatten", graph.add("GlobalAveragePool", x.name)), shape=x.shape[:1])


def _add_pixels(graph: Graph, grey: str, size: int) -> Value:
    """Adds the features of a network of one segment, see `forward.choose_stride`."""
    stride = choose_stride(size)
    arrays = {"first": [0, 0], "last": [size, size], "axes": [2, 3], "steps": [stride, stride]}
    limits = [graph.add_constant(name, np.array(array, np.int64)) for name, array in arrays.items()]
    kept = graph.add("Slice", grey, *limits)
    return Value(graph.add("Flatten", kept), shape=(len(range(0, size, stride)) ** 2,))


def _add_class_maps(graph: Graph, output: layers.Dense, x: Value) -> Value:
    kernel = np.asarray(output.kernel[...]).T[:, :, None, None]  # [classes, C, 1, 1]
    name = graph.add("Conv", x.name, graph.add_constant("class_maps", kernel), kernel_shape=[1, 1])
    return Value(name, shape=(kernel.shape[0], *x.shape[1:]))


def _add_axis(graph: Graph, x: Value) -> str:
    """Adds the axis of the networks, and returns the name of the output."""
    return graph.add("Unsqueeze", x.name, graph.add_constant("axis_of_networks", np.array([0], np.int64)))


def _add_normalisation(graph: Graph, grey: str, member: TrainedNetwork) -> str:
    """Adds the normalisation, [B, 1, H, W] in [0, 1] -> [B, 3, H, W], and returns the name of its output."""
    mean, deviation = (
        np.array(values).reshape(1, 3, 1, 1) for values in (member.normalisation.mean, member.normalisation.std)
    )
    scaled = graph.add("Mul", grey, graph.add_constant("scale", (1 / deviation).astype(np.float32)))
    return graph.add("Add", scaled, graph.add_constant("shift", (-mean / deviation).astype(np.float32)))
