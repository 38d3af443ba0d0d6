"""Separable filters of a square image, with a width that is drawn at random for each image, in one program."""

import math

import jax
import jax.numpy as jnp

# What an image is reduced by, and what it is enlarged by: numbers of `_KERNELS`.
REDUCING, ENLARGING = (0, 1, 2), (1, 2)

_SHARPEST = 1e-3  # pixels, a standard deviation at which a Gaussian leaves an image as it is


def blur(image: jax.Array, deviation: jax.Array, *, largest: float) -> jax.Array:
    """Blurs an image [S, S] float32 by a Gaussian, cut off at three times the largest standard deviation.

    Args:
      image: [S, S] float32; its border continues outside.
      deviation: standard deviation in pixels, [] float32.
      largest: of all deviations, which fixes the size of the kernel.
    """
    reach = math.ceil(3 * largest)
    distance = jnp.arange(-reach, reach + 1, dtype=jnp.float32)
    weights = jnp.exp(-0.5 * jnp.square(distance / jnp.maximum(deviation, _SHARPEST)))
    weights /= weights.sum()
    return _convolve_columns(_convolve_columns(image, weights).T, weights).T


def _convolve_columns(image: jax.Array, weights: jax.Array) -> jax.Array:
    reach = len(weights) // 2
    # Reads its input from memory: fused with what makes it, it would compute that anew for each of its terms.
    around = jnp.pad(jax.lax.optimization_barrier(image), ((reach, reach), (0, 0)), mode="edge")
    terms = (weight * around[start : start + len(image)] for start, weight in enumerate(weights))
    return jax.lax.optimization_barrier(sum(terms, start=jnp.zeros_like(image)))


def filter_by(matrix: jax.Array, image: jax.Array) -> jax.Array:
    """Filters the columns and the rows of an image: [T, T] float32 from a matrix [T, S] and an image [S, S]."""
    exact = jax.lax.Precision.HIGHEST  # the 10 bits of TF32 would move greys by half a level
    return jnp.matmul(jnp.matmul(matrix, image, precision=exact), matrix.T, precision=exact)


def make_resampling(size: int, target: int, *, length: jax.Array | int, kernel: jax.Array | int) -> jax.Array:
    """Makes the matrix that resamples `size` pixels to `length` pixels, [target, size] float32.

    The kernel is as wide as the pixels of the smaller of both images, as in Pillow's `Image.resize`. Rows from `length`
    on are zero.

    Args:
      size: pixels of the image.
      target: largest `length`.
      length: pixels of the result, [] integer.
      kernel: 0 averages, 1 is linear, 2 is cubic (a = -0.5).
    """
    step = size / jnp.asarray(length, jnp.float32)  # pixels of the image in a pixel of the result
    rows = jnp.arange(target, dtype=jnp.float32)
    distance = ((rows[:, None] + 0.5) * step - (jnp.arange(size, dtype=jnp.float32) + 0.5)) / jnp.maximum(step, 1)
    weights = jnp.where((rows < length)[:, None], jax.lax.switch(kernel, _KERNELS, distance), 0)
    return _normalise(weights)


def reduce_and_enlarge(size: int, length: jax.Array, *, reducing: jax.Array, enlarging: jax.Array) -> jax.Array:
    """Makes the matrix that reduces `size` pixels to `length` and enlarges them again, [size, size] float32.

    Args:
      size: pixels of the image.
      length: pixels in between, [] integer of at most `size`.
      reducing: number of a kernel, see `make_resampling`.
      enlarging: number of a kernel.
    """
    down = make_resampling(size, size, length=length, kernel=reducing)
    # The same formula with the roles exchanged: a pixel of the result lies at this place among those in between.
    step = jnp.asarray(length, jnp.float32) / size
    places = jnp.arange(size, dtype=jnp.float32)
    distance = (places[:, None] + 0.5) * step - (places + 0.5)
    up = jnp.where(places < length, jax.lax.switch(enlarging, _KERNELS, distance), 0)
    return jnp.matmul(_normalise(up), down, precision=jax.lax.Precision.HIGHEST)


def _average(distance: jax.Array) -> jax.Array:
    # Half-open, so that a pixel between two others counts for one of them.
    return ((distance > -0.5) & (distance <= 0.5)).astype(jnp.float32)


def _interpolate_linearly(distance: jax.Array) -> jax.Array:
    return jnp.maximum(1 - jnp.abs(distance), 0)


def _interpolate_cubically(distance: jax.Array) -> jax.Array:
    """Keys 1981, "Cubic convolution interpolation for digital image processing", with a = -0.5."""
    x = jnp.abs(distance)
    near = (1.5 * x - 2.5) * x * x + 1
    far = ((-0.5 * x + 2.5) * x - 4) * x + 2
    return jnp.where(x < 1, near, jnp.where(x < 2, far, 0))


_KERNELS = (_average, _interpolate_linearly, _interpolate_cubically)


def _normalise(weights: jax.Array) -> jax.Array:
    """Divides each row by its sum; a row of zeros stays as it is."""
    total = weights.sum(-1, keepdims=True)
    return weights / jnp.where(total == 0, 1, total)
