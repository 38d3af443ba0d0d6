"""Segments of networks without BatchNorm: convolutions with pooling, dense layers, linear outputs."""

import math

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from bt_jax.common.errors import UsageError
from bt_jax.models.layers import Convolution, Dense, Trained, dropout
from bt_jax.models.segments import Grid
from bt_jax.ops.pooling import WINDOW, max_pool


def flatten(x: jax.Array, features: int) -> jax.Array:
    """Flattens [B, ...] to [B, features], using only as many of the first channels as `features` requires.

    The three channels of a grey image are equal, so one of them is enough.
    """
    channels = features // math.prod(x.shape[1:-1])
    return x[..., :channels].reshape(x.shape[0], features)


def compute_pooled_size(size: int, *, times: int, name: str) -> int:
    """Returns the side of an image after a number of 2x2 poolings.

    Raises:
      UsageError: the image is too small.
    """
    left = size // WINDOW**times
    if not left:
        raise UsageError(
            f"images of {size} pixels are too small for the {times} poolings of {name}: "
            f"set config.preprocess.size to {WINDOW**times} or more"
        )
    return left


class ConvolutionBlock(nnx.Module):
    """3x3 convolutions with ReLU, 2x2 max pooling and dropout, on the first `channels_in` channels of the input."""

    def __init__(
        self,
        channels_in: int,
        channels_out: int,
        *,
        convolutions: int = 1,
        dropout_rate: float = 0.0,
        generator: np.random.Generator,
    ):
        self.channels_in, self.convolutions, self.dropout_rate = channels_in, convolutions, dropout_rate
        for i in range(1, convolutions + 1):
            layer = Convolution(
                channels_in if i == 1 else channels_out,
                channels_out,
                kernel_size=3,
                use_bias=True,
                keep_variance=True,
                generator=generator,
            )
            setattr(self, f"conv_{i}", layer)

    def __call__(self, x: jax.Array, *, trained: Trained, rngs: nnx.Rngs | None) -> jax.Array:
        """[B, H, W, C] -> [B, H // 2, W // 2, D]."""
        x = x[..., : self.channels_in]
        for i in range(1, self.convolutions + 1):
            x = jax.nn.relu(getattr(self, f"conv_{i}")(x))
        return dropout(max_pool(x), rate=self.dropout_rate, trained=trained, rngs=rngs)

    def compute_grid(self, before: Grid) -> Grid:
        """Returns the grid of the output."""
        return before.convolve(kernel_size=WINDOW, stride=WINDOW, padding=(0, 0))


class DenseBlock(nnx.Module):
    """Flattening, a dense layer, ReLU, dropout."""

    def __init__(
        self, features_in: int, features_out: int, *, dropout_rate: float = 0.0, generator: np.random.Generator
    ):
        self.features_in, self.dropout_rate = features_in, dropout_rate
        self.dense = Dense(features_in, features_out, generator=generator)

    def __call__(self, x: jax.Array, *, trained: Trained, rngs: nnx.Rngs | None) -> jax.Array:
        """[B, ...] -> [B, D]."""
        x = jax.nn.relu(self.dense(flatten(x, self.features_in)))
        return dropout(x, rate=self.dropout_rate, trained=trained, rngs=rngs)


class Output(nnx.Module):
    """Flattening and a dense layer."""

    def __init__(self, features_in: int, classes: int, *, generator: np.random.Generator):
        self.features_in = features_in
        self.output = Dense(features_in, classes, generator=generator)

    def __call__(self, x: jax.Array, *, trained: Trained, rngs: nnx.Rngs | None) -> jax.Array:
        """[B, ...] -> logits [B, classes] in float32."""
        del trained, rngs
        return self.output(flatten(x, self.features_in)).astype(jnp.float32)


def make_dense_segments(
    features: int, *, hidden: tuple[int, ...], classes: int, dropout_rate: float, generator: np.random.Generator
) -> dict[str, nnx.Module]:
    """Makes the segments `dense_1` ... and `head` for inputs of `features` values.

    Args:
      features: number of values of an image.
      hidden: sizes of the dense blocks.
      classes: number of logits.
      dropout_rate: rate after each block.
      generator: source of the initial weights.
    """
    segments: dict[str, nnx.Module] = {}
    for i, size in enumerate(hidden, start=1):
        segments[f"dense_{i}"] = DenseBlock(features, size, dropout_rate=dropout_rate, generator=generator)
        features = size
    return segments | {"head": Output(features, classes, generator=generator)}


def check_channels(channels: int) -> int:
    """Returns the number of channels if it is 1 or 3.

    Raises:
      UsageError: it is another number.
    """
    if channels not in (1, 3):
        raise UsageError(f"config.model.channels is {channels}: use 1 (grey) or 3 (the same three times)")
    return channels
