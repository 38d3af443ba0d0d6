"""Convolutions over all channels, in the form that is fastest on each platform."""

import functools
import math

import jax
import jax.numpy as jnp

from bt_jax.ops.depthwise import Padding
from bt_jax.ops.platform import select_form
from bt_jax.ops.pointwise import pointwise

# The largest patch, in values, for which a product of patches is faster on a CPU: XLA uses one core for such a
# convolution.
SMALL_PATCH = 64


def convolution(x: jax.Array, kernel: jax.Array, *, stride: int, padding: Padding) -> jax.Array:
    """Convolves.

    Args:
      x: [B, H, W, C].
      kernel: [K, K, C, D], same dtype as `x`.
      stride: step in both directions.
      padding: rows and columns of zeros ((top, bottom), (left, right)).

    Returns:
      [B, H', W', D] with H' = (H + top + bottom - K) // stride + 1, and W' likewise.
    """
    plain = functools.partial(convolve_natively, stride=stride, padding=padding)
    if math.prod(kernel.shape[:3]) > SMALL_PATCH:
        return plain(x, kernel)
    patches = functools.partial(multiply_patches, stride=stride, padding=padding)
    return select_form(x, kernel, cpu=patches, default=plain)


def convolve_natively(x: jax.Array, kernel: jax.Array, *, stride: int, padding: Padding) -> jax.Array:
    """Computes the convolution with XLA's own operation. Shapes as in `convolution`."""
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        window_strides=(stride, stride),
        padding=padding,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


def multiply_patches(x: jax.Array, kernel: jax.Array, *, stride: int, padding: Padding) -> jax.Array:
    """Multiplies the patch of each output by a matrix: the form for few input channels on a CPU.

    Shapes as in `convolution`."""
    size = kernel.shape[0]
    rows = (x.shape[1] + sum(padding[0]) - size) // stride + 1
    columns = (x.shape[2] + sum(padding[1]) - size) // stride + 1
    padded = jnp.pad(x, ((0, 0), *padding, (0, 0)))
    patches = [
        padded[:, i : i + stride * rows : stride, j : j + stride * columns : stride]
        for i in range(size)
        for j in range(size)
    ]
    return pointwise(jnp.concatenate(patches, axis=-1), kernel.reshape(-1, kernel.shape[-1]))
