"""EfficientNet (arXiv:1905.11946) B0 to B7 by compound scaling, and Lite0 to Lite4 without squeeze-and-excite."""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np
from flax import nnx

from bt_jax.models.layers import (
    PADDINGS,
    Activation,
    BatchNorm,
    Convolution,
    DepthwiseConvolution,
    Head,
    Trained,
    convolve_and_normalise,
    dropout,
)
from bt_jax.models.segments import Grid, SegmentedModel


class BlockGroup(NamedTuple):
    """A row of Table 1 in the paper, before scaling."""

    kernel_size: int
    repeats: int
    channels: int
    expansion: int
    stride: int


GROUPS = (
    BlockGroup(kernel_size=3, repeats=1, channels=16, expansion=1, stride=1),
    BlockGroup(kernel_size=3, repeats=2, channels=24, expansion=6, stride=2),
    BlockGroup(kernel_size=5, repeats=2, channels=40, expansion=6, stride=2),
    BlockGroup(kernel_size=3, repeats=3, channels=80, expansion=6, stride=2),
    BlockGroup(kernel_size=5, repeats=3, channels=112, expansion=6, stride=1),
    BlockGroup(kernel_size=5, repeats=4, channels=192, expansion=6, stride=2),
    BlockGroup(kernel_size=3, repeats=1, channels=320, expansion=6, stride=1),
)
STEM_CHANNELS, TOP_CHANNELS = 32, 1280
SQUEEZE_RATIO = 0.25
STOCHASTIC_DEPTH = 0.2  # drop rate of the last block; it grows linearly from 0 at the first


class Scaling(NamedTuple):
    """Compound scaling of one variant, its native input size in pixels, and the dropout rate before its classifier."""

    width: float
    depth: float
    size: int
    dropout: float
    lite: bool = False


# B0 to B7: the paper's reference code. Lite: tensorflow/tpu, models/official/efficientnet/lite.
VARIANTS = {
    "efficientnet_b0": Scaling(1.0, 1.0, 224, 0.2),
    "efficientnet_b1": Scaling(1.0, 1.1, 240, 0.2),
    "efficientnet_b2": Scaling(1.1, 1.2, 260, 0.3),
    "efficientnet_b3": Scaling(1.2, 1.4, 300, 0.3),
    "efficientnet_b4": Scaling(1.4, 1.8, 380, 0.4),
    "efficientnet_b5": Scaling(1.6, 2.2, 456, 0.4),
    "efficientnet_b6": Scaling(1.8, 2.6, 528, 0.5),
    "efficientnet_b7": Scaling(2.0, 3.1, 600, 0.5),
    "efficientnet_lite0": Scaling(1.0, 1.0, 224, 0.2, lite=True),
    "efficientnet_lite1": Scaling(1.0, 1.1, 240, 0.2, lite=True),
    "efficientnet_lite2": Scaling(1.1, 1.2, 260, 0.3, lite=True),
    "efficientnet_lite3": Scaling(1.2, 1.4, 280, 0.3, lite=True),
    "efficientnet_lite4": Scaling(1.4, 1.8, 300, 0.3, lite=True),
    # Not in the paper: about a tenth of B0, for the demo and for tests.
    "efficientnet_nano": Scaling(0.25, 0.3, 96, 0.2),
}


@dataclasses.dataclass(frozen=True)
class Style:
    """The settings that all layers of a model share."""

    activation: Activation
    squeeze_excite: bool
    padding: str
    epsilon: float
    momentum: float
    batch_statistics: bool

    def make_norm(self, channels: int) -> BatchNorm:
        """Makes a BatchNorm layer of this style."""
        return BatchNorm(channels, epsilon=self.epsilon, momentum=self.momentum, batch_statistics=self.batch_statistics)


def scale_channels(channels: int, width: float) -> int:
    """Scales channels by width and rounds to a multiple of 8, at most a tenth below."""
    scaled = channels * width
    rounded = max(8, int(scaled + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * scaled else rounded


def scale_repeats(scaling: Scaling) -> list[int]:
    """Returns the number of blocks of each of `GROUPS`, scaled by depth."""
    return [
        # The Lite models do not scale the first and the last group.
        group.repeats if scaling.lite and i in (0, len(GROUPS) - 1) else math.ceil(group.repeats * scaling.depth)
        for i, group in enumerate(GROUPS)
    ]


def relu6(x: jax.Array) -> jax.Array:
    """Computes ReLU limited to 6, the activation of the Lite models."""
    return jax.numpy.clip(x, 0, 6)


class ConvolutionSegment(nnx.Module):
    """Convolution, BatchNorm and activation, as in the stem and the top."""

    def __init__(
        self,
        channels_in: int,
        channels_out: int,
        *,
        kernel_size: int,
        stride: int,
        style: Style,
        generator: np.random.Generator,
    ):
        self.activation = style.activation
        self.conv = Convolution(
            channels_in,
            channels_out,
            kernel_size=kernel_size,
            stride=stride,
            padding=style.padding,
            generator=generator,
        )
        self.norm = style.make_norm(channels_out)

    def __call__(self, x: jax.Array, *, trained: Trained, rngs: nnx.Rngs | None) -> jax.Array:
        """[B, H, W, C] -> [B, H', W', D]."""
        del rngs
        return convolve_and_normalise(self.conv, self.norm, x, trained=trained, activation=self.activation)

    def compute_grid(self, before: Grid) -> Grid:
        """Returns the grid of the output."""
        return _compute_grid(self.conv, before)


class SqueezeExcite(nnx.Module):
    """Scales each channel by a gate computed from all channels' means (arXiv:1709.01507)."""

    def __init__(self, channels: int, squeezed: int, *, activation: Activation, generator: np.random.Generator):
        self.activation = activation
        self.reduce = Convolution(channels, squeezed, use_bias=True, generator=generator)
        self.expand = Convolution(squeezed, channels, use_bias=True, generator=generator)

    def __call__(self, x: jax.Array) -> jax.Array:  # [B, H, W, C] -> [B, C]
        """Returns the gate of each channel, between 0 and 1."""
        gate = self.activation(self.reduce(x.mean((1, 2))))
        return jax.nn.sigmoid(self.expand(gate))


class MBConv(nnx.Module):
    """Inverted residual block: expand, depthwise, squeeze-and-excite, project (arXiv:1801.04381, 1905.11946)."""

    def __init__(
        self,
        channels_in: int,
        channels_out: int,
        *,
        kernel_size: int,
        stride: int,
        expansion: int,
        drop_rate: float,
        style: Style,
        generator: np.random.Generator,
    ):
        inner = channels_in * expansion
        self.activation, self.drop_rate = style.activation, drop_rate
        self.residual = stride == 1 and channels_in == channels_out
        self.expand = Convolution(channels_in, inner, generator=generator) if expansion != 1 else None
        self.expand_norm = style.make_norm(inner) if expansion != 1 else None
        self.depthwise = DepthwiseConvolution(
            inner, kernel_size=kernel_size, stride=stride, padding=style.padding, generator=generator
        )
        self.depthwise_norm = style.make_norm(inner)
        # The squeeze ratio is relative to the block's input channels, not to the expanded ones.
        squeezed = max(1, int(channels_in * SQUEEZE_RATIO))
        self.squeeze_excite = (
            SqueezeExcite(inner, squeezed, activation=style.activation, generator=generator)
            if style.squeeze_excite
            else None
        )
        self.project = Convolution(inner, channels_out, generator=generator)
        self.project_norm = style.make_norm(channels_out)

    def __call__(self, x: jax.Array, *, trained: Trained, rngs: nnx.Rngs | None) -> jax.Array:
        """[B, H, W, C] -> [B, H', W', D]."""
        inputs = x
        if self.expand is not None and self.expand_norm is not None:
            x = convolve_and_normalise(self.expand, self.expand_norm, x, trained=trained, activation=self.activation)
        x = convolve_and_normalise(self.depthwise, self.depthwise_norm, x, trained=trained, activation=self.activation)
        project: Callable[..., jax.Array] = self.project
        if self.squeeze_excite is not None:
            project = functools.partial(self.project, gate=self.squeeze_excite(x))
        x = convolve_and_normalise(project, self.project_norm, x, trained=trained)
        if self.residual:
            x = inputs + dropout(x, rate=self.drop_rate, trained=trained, rngs=rngs, whole_records=True)
        return x

    def compute_grid(self, before: Grid) -> Grid:
        """Returns the grid of the output."""
        return _compute_grid(self.depthwise, before)


def _compute_grid(layer: Convolution | DepthwiseConvolution, before: Grid) -> Grid:
    padding = PADDINGS[layer.padding](before.side, layer.kernel_size, layer.stride)
    return before.convolve(kernel_size=layer.kernel_size, stride=layer.stride, padding=padding)


def efficientnet(
    variant: str,
    *,
    classes: int,
    size: int | None = None,
    hidden: tuple[int, ...] = (),
    dropout_rate: float | None = None,
    padding: str = "same",
    epsilon: float = 1e-3,
    momentum: float = 0.99,
    batch_statistics: bool = True,
    seed: int = 0,
) -> SegmentedModel:
    """Builds a model with random weights: segments `stem`, `block_01` ..., `top`, `head`.

    Args:
      variant: a key of `VARIANTS`.
      classes: number of logits.
      size: side of the images in pixels, which nothing here depends on.
      hidden: sizes of the head's Dense-BatchNorm-ReLU-Dropout blocks; none is the reference's classifier.
      dropout_rate: of the head; None is the variant's own.
      padding: "same" (TensorFlow, Keras and the `tf_` models of timm) or "symmetric" (other PyTorch ports).
      epsilon: of BatchNorm; the reference's is 1e-3.
      momentum: of BatchNorm, the weight of the old running value; the reference's is .99.
      batch_statistics: whether the BatchNorm layers below the head normalise by the batch where they train; else by the
        running statistics, which then stay as they are.
      seed: of the initial weights.
    """
    del size
    scaling = VARIANTS[variant]
    generator = np.random.default_rng(seed)
    style = Style(
        activation=relu6 if scaling.lite else jax.nn.silu,
        squeeze_excite=not scaling.lite,
        padding=padding,
        epsilon=epsilon,
        momentum=momentum,
        batch_statistics=batch_statistics,
    )
    repeats = scale_repeats(scaling)
    width = 1.0 if scaling.lite else scaling.width  # of stem and top
    channels = scale_channels(STEM_CHANNELS, width)
    segments: dict[str, nnx.Module] = {
        "stem": ConvolutionSegment(3, channels, kernel_size=3, stride=2, style=style, generator=generator)
    }
    number = 0
    for group, count in zip(GROUPS, repeats, strict=True):
        for repeat in range(count):
            channels_out = scale_channels(group.channels, scaling.width)
            segments[f"block_{number + 1:02d}"] = MBConv(
                channels,
                channels_out,
                kernel_size=group.kernel_size,
                stride=group.stride if repeat == 0 else 1,
                expansion=group.expansion,
                drop_rate=STOCHASTIC_DEPTH * number / sum(repeats),
                style=style,
                generator=generator,
            )
            channels = channels_out
            number += 1
    top_channels = scale_channels(TOP_CHANNELS, width)
    segments["top"] = ConvolutionSegment(
        channels, top_channels, kernel_size=1, stride=1, style=style, generator=generator
    )
    segments["head"] = Head(
        top_channels,
        classes,
        hidden=hidden,
        dropout_rate=scaling.dropout if dropout_rate is None else dropout_rate,
        epsilon=epsilon,
        momentum=momentum,
        generator=generator,
    )
    return SegmentedModel(segments)
