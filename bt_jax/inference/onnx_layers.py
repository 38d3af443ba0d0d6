"""Segments of networks as nodes of an ONNX graph. The only module that imports onnx.

The models consist of a dozen kinds of layers, each of which has an ONNX operator: Conv, Gemm and pooling, with
BatchNorm folded in. Images are [B, C, H, W] inside the graph.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from flax import nnx

from bt_jax.common.errors import UsageError
from bt_jax.models import blocks, efficientnet, layers, vgg
from bt_jax.models.layers import PADDINGS
from bt_jax.ops.pooling import WINDOW

OPSET = 17  # supported by ONNX Runtime 1.12 and newer; nothing here needs more
_IR_VERSION = 8  # of ONNX 1.12, which these runtimes read
_MISSING = "--format=onnx needs the packages onnx and onnxruntime: python -m pip install onnx onnxruntime"


class Value:
    """A tensor of the graph: its name, and its shape without the batch, (C, H, W) or (D,)."""

    def __init__(self, name: str, *, shape: tuple[int, ...]):
        self.name, self.shape = name, shape


class Graph:
    """Nodes and constants, named by the segment they belong to.

    Raises:
      UsageError: the package onnx is missing.
    """

    def __init__(self) -> None:
        self._onnx = _import_onnx()
        self._nodes: list[Any] = []
        self._constants: dict[str, Any] = {}
        self.prefix = "input"

    def add(self, operation: str, *inputs: str, output: str | None = None, **attributes: Any) -> str:
        """Appends a node and returns the name of its output."""
        name = f"{self.prefix}.{operation}_{len(self._nodes)}"
        made = self._onnx.helper.make_node(operation, list(inputs), [output or name], name=name, **attributes)
        self._nodes.append(made)
        return output or name

    def add_constant(self, name: str, array: np.ndarray | np.floating) -> str:
        """Adds an array and returns its name."""
        full = f"{self.prefix}.{name}"
        while full in self._constants:
            full += "_"
        self._constants[full] = self._onnx.numpy_helper.from_array(np.asarray(array, order="C"), full)
        return full

    def serialise(
        self,
        *,
        inputs: Mapping[str, Sequence[Any]],
        outputs: Mapping[str, Sequence[Any]],
        metadata: Mapping[str, str],
    ) -> bytes:
        """Checks the model and serialises it, given the shapes of its float32 inputs and outputs by name."""
        helper, kind = self._onnx.helper, self._onnx.TensorProto.FLOAT
        described = (
            [helper.make_tensor_value_info(name, kind, shape) for name, shape in shapes.items()]
            for shapes in (inputs, outputs)
        )
        made = helper.make_graph(self._nodes, "bt_jax", *described, list(self._constants.values()))
        model = helper.make_model(
            made, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=_IR_VERSION, producer_name="bt_jax"
        )
        helper.set_model_props(model, dict(metadata))
        self._onnx.checker.check_model(model, full_check=True)
        return bytes(model.SerializeToString())


def add_segment(graph: Graph, segment: nnx.Module, x: Value) -> Value:
    """Adds the nodes of a segment that takes `x`, and returns its output.

    Raises:
      UsageError: a segment or activation of an unsupported kind.
    """
    for kind, write in _SEGMENTS.items():
        if isinstance(segment, kind):
            return write(graph, segment, x)
    raise UsageError(f"--format=onnx does not support {type(segment).__name__} segments: use stablehlo or safetensors")


def _add_convolution_segment(graph: Graph, segment: efficientnet.ConvolutionSegment, x: Value) -> Value:
    return _add_activation(graph, _add_convolution(graph, segment.conv, x, norm=segment.norm), segment.activation)


def _add_mbconv(graph: Graph, block: efficientnet.MBConv, x: Value) -> Value:
    inputs = x
    if block.expand is not None:
        x = _add_activation(graph, _add_convolution(graph, block.expand, x, norm=block.expand_norm), block.activation)
    x = _add_activation(graph, _add_convolution(graph, block.depthwise, x, norm=block.depthwise_norm), block.activation)
    if block.squeeze_excite is not None:
        squeeze = block.squeeze_excite
        means = Value(graph.add("GlobalAveragePool", x.name), shape=(x.shape[0], 1, 1))
        gate = _add_activation(graph, _add_convolution(graph, squeeze.reduce, means), squeeze.activation)
        gate = _add_convolution(graph, squeeze.expand, gate)
        x = Value(graph.add("Mul", x.name, graph.add("Sigmoid", gate.name)), shape=x.shape)
    x = _add_convolution(graph, block.project, x, norm=block.project_norm)
    return Value(graph.add("Add", inputs.name, x.name), shape=x.shape) if block.residual else x


def _add_convolution_block(graph: Graph, block: blocks.ConvolutionBlock, x: Value) -> Value:
    x = _take_first_channels(graph, x, block.channels_in)
    for number in range(1, block.convolutions + 1):
        x = _add_activation(graph, _add_convolution(graph, getattr(block, f"conv_{number}"), x), jax.nn.relu)
    channels, height, width = x.shape
    pooled = graph.add("MaxPool", x.name, kernel_shape=[WINDOW, WINDOW], strides=[WINDOW, WINDOW])
    return Value(pooled, shape=(channels, height // WINDOW, width // WINDOW))


def _add_head(graph: Graph, head: layers.Head, x: Value) -> Value:
    pooled = graph.add("Flatten", graph.add("GlobalAveragePool", x.name))
    x = Value(pooled, shape=x.shape[:1])
    for number in range(1, len(head.hidden) + 1):
        dense, norm = getattr(head, f"dense_{number}"), getattr(head, f"norm_{number}")
        x = _add_activation(graph, _add_dense(graph, dense, x, norm=norm), jax.nn.relu)
    return _add_dense(graph, head.output, x)


def _add_classifier(graph: Graph, head: vgg.Classifier, x: Value) -> Value:
    x = _flatten(graph, x, head.features_in)
    for dense in (head.dense_1, head.dense_2):
        x = _add_activation(graph, _add_dense(graph, dense, x), jax.nn.relu)
    return _add_dense(graph, head.output, x)


def _add_dense_block(graph: Graph, block: blocks.DenseBlock, x: Value) -> Value:
    x = _flatten(graph, x, block.features_in)
    return _add_activation(graph, _add_dense(graph, block.dense, x), jax.nn.relu)


def _add_output(graph: Graph, head: blocks.Output, x: Value) -> Value:
    return _add_dense(graph, head.output, _flatten(graph, x, head.features_in))


_SEGMENTS: dict[type, Callable[[Graph, Any, Value], Value]] = {
    efficientnet.ConvolutionSegment: _add_convolution_segment,
    efficientnet.MBConv: _add_mbconv,
    blocks.ConvolutionBlock: _add_convolution_block,
    blocks.DenseBlock: _add_dense_block,
    blocks.Output: _add_output,
    layers.Head: _add_head,
    vgg.Classifier: _add_classifier,
}


def _add_convolution(
    graph: Graph,
    layer: layers.Convolution | layers.DepthwiseConvolution,
    x: Value,
    *,
    norm: layers.BatchNorm | None = None,
) -> Value:
    """Adds a convolution with the BatchNorm after it folded into its kernel."""
    kernel = np.asarray(layer.kernel[...])
    depthwise = isinstance(layer, layers.DepthwiseConvolution)
    kernel = kernel[:, :, None, :] if depthwise else kernel  # [K, K, in / groups, out]
    own = None if isinstance(layer, layers.DepthwiseConvolution) else layer.bias
    bias = None if own is None else np.asarray(own[...])
    if norm is not None:
        factor, bias = (np.asarray(array) for array in norm.compute_affine())
        kernel = kernel * factor
    pads = [PADDINGS[layer.padding](side, layer.kernel_size, layer.stride) for side in x.shape[1:]]
    inputs = [x.name, graph.add_constant("kernel", kernel.transpose(3, 2, 0, 1))]
    if bias is not None:
        inputs.append(graph.add_constant("bias", bias))
    name = graph.add(
        "Conv",
        *inputs,
        group=x.shape[0] if depthwise else 1,
        kernel_shape=[layer.kernel_size] * 2,
        strides=[layer.stride] * 2,
        pads=[pad[0] for pad in pads] + [pad[1] for pad in pads],
    )
    sides = (
        (side + sum(pad) - layer.kernel_size) // layer.stride + 1 for side, pad in zip(x.shape[1:], pads, strict=True)
    )
    return Value(name, shape=(kernel.shape[-1], *sides))


def _add_dense(graph: Graph, layer: layers.Dense, x: Value, *, norm: layers.BatchNorm | None = None) -> Value:
    """Adds a dense layer with the BatchNorm after it folded into its matrix."""
    kernel = np.asarray(layer.kernel[...])
    bias = np.zeros(kernel.shape[1], np.float32) if layer.bias is None else np.asarray(layer.bias[...])
    if norm is not None:
        factor, shift = (np.asarray(array) for array in norm.compute_affine())
        kernel, bias = kernel * factor, bias * factor + shift
    name = graph.add("Gemm", x.name, graph.add_constant("kernel", kernel), graph.add_constant("bias", bias))
    return Value(name, shape=kernel.shape[1:])


def _add_activation(graph: Graph, x: Value, activation: Callable[..., Any]) -> Value:
    if activation is efficientnet.relu6:
        limits = (graph.add_constant("lowest", np.float32(0)), graph.add_constant("highest", np.float32(6)))
        name = graph.add("Clip", x.name, *limits)
    elif activation is jax.nn.silu:
        name = graph.add("Mul", x.name, graph.add("Sigmoid", x.name))
    elif activation is jax.nn.relu:
        name = graph.add("Relu", x.name)
    else:
        raise UsageError(f"--format=onnx does not support the activation {activation}: use stablehlo or safetensors")
    return Value(name, shape=x.shape)


def _flatten(graph: Graph, x: Value, features: int) -> Value:
    """Flattens [B, C, H, W] to [B, features] in the order of [B, H, W, C], as the networks do."""
    if len(x.shape) == 1:
        return x
    x = _take_first_channels(graph, x, features // (x.shape[1] * x.shape[2]))
    name = graph.add("Flatten", graph.add("Transpose", x.name, perm=[0, 2, 3, 1]))
    return Value(name, shape=(features,))


def _take_first_channels(graph: Graph, x: Value, channels: int) -> Value:
    if channels == x.shape[0]:
        return x
    start, stop, axis = (
        graph.add_constant(name, np.array([value], np.int64))
        for name, value in (("first", 0), ("last", channels), ("axis", 1))
    )
    return Value(graph.add("Slice", x.name, start, stop, axis), shape=(channels, *x.shape[1:]))


def _import_onnx() -> Any:
    try:
        import onnx  # an extra
    except ImportError as error:
        raise UsageError(_MISSING) from error
    return onnx
