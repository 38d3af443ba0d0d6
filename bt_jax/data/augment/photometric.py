"""Photometric augmentation: random changes of appearance, as between scanners, archives and web pages.

Each function maps an image [S, S] float32 in [0, 1] to another one, with the configured strength and a key of its own.
They follow BigAug (arXiv:1906.03347).
"""

import jax
import jax.numpy as jnp

from bt_jax.data.augment import filters
from bt_jax.data.augment.filters import filter_by, make_resampling

_LEVELS = 256  # of the table of a curve of intensities


def apply_bias_field(image: jax.Array, *, strength: float, key: jax.Array) -> jax.Array:
    """Applies a smooth random field of brightness, like that of a receiver coil.

    Args:
      image: [S, S] float32.
      strength: the field lies in 1 / (1 + strength) .. 1 + strength.
      key: random key.
    """
    largest = strength * _draw(key, 0)
    coarse = jax.random.uniform(jax.random.fold_in(key, 1), (4, 4), jnp.float32, -1, 1)
    field = filter_by(make_resampling(4, len(image), length=len(image), kernel=2), coarse)
    field /= jnp.maximum(jnp.abs(field).max(), 1e-6)
    return jnp.clip(image * jnp.exp(jnp.log1p(largest) * field), 0, 1)


def sharpen(image: jax.Array, *, strength: float, key: jax.Array) -> jax.Array:
    """Sharpens by an unsharp mask, as scanners and viewers do.

    Args:
      image: [S, S] float32.
      strength: largest amount of the mask; 1 adds the difference to the blurred image once.
      key: random key.
    """
    amount, radius = strength * _draw(key, 0), 0.5 + 2 * _draw(key, 1)
    blurred = filters.blur(image, radius, largest=2.5)
    return jnp.clip(image + amount * (image - blurred), 0, 1)


def reduce_resolution(image: jax.Array, *, strength: float, key: jax.Array) -> jax.Array:
    """Reduces and enlarges an image with random kernels.

    Args:
      image: [S, S] float32.
      strength: the side is reduced to at least 1 - strength of itself.
      key: random key.
    """
    size = len(image)
    length = jnp.maximum(1, jnp.round(size * (1 - strength * _draw(key, 0)))).astype(jnp.int32)
    down = jax.random.choice(jax.random.fold_in(key, 1), jnp.array(filters.REDUCING))
    up = jax.random.choice(jax.random.fold_in(key, 2), jnp.array(filters.ENLARGING))
    matrix = filters.reduce_and_enlarge(size, length, reducing=down, enlarging=up)
    return jnp.clip(filter_by(matrix, image), 0, 1)


def blur(image: jax.Array, *, strength: float, key: jax.Array) -> jax.Array:
    """Blurs by a Gaussian with a standard deviation in 0 .. `strength`, in pixels."""
    return filters.blur(image, strength * _draw(key, 0), largest=strength)


def apply_curve(image: jax.Array, *, strength: float, key: jax.Array) -> jax.Array:
    """Maps intensities by a random nondecreasing curve from black to white.

    It is a cubic Bezier curve with two random inner points, as in Models Genesis (arXiv:2004.07882) without its
    inverted curves, mixed with the identity.

    Args:
      image: [S, S] float32.
      strength: largest share of the curve in the mixture.
      key: random key.
    """
    share = strength * _draw(key, 0)
    x1, y1, x2, y2 = jax.random.uniform(jax.random.fold_in(key, 1), (4,), jnp.float32)
    t = jnp.linspace(0, 1, 128, dtype=jnp.float32)
    first, second, third = 3 * t * (1 - t) ** 2, 3 * t**2 * (1 - t), t**3
    levels = jnp.linspace(0, 1, _LEVELS, dtype=jnp.float32)
    table = jnp.interp(levels, first * x1 + second * x2 + third, first * y1 + second * y2 + third)
    place = image * (_LEVELS - 1)
    below = jnp.clip(jnp.floor(place), 0, _LEVELS - 2).astype(jnp.int32)
    low, high = (table.at[below + i].get(mode="promise_in_bounds") for i in range(2))
    return (1 - share) * image + share * (low + (place - below) * (high - low))


def change_gamma(image: jax.Array, *, strength: float, key: jax.Array) -> jax.Array:
    """Raises intensities to an exponent in 1 / (1 + strength) .. 1 + strength, log-uniform."""
    # Not by `**`, which takes twice the time on a CPU. The logarithm of black is -inf, and black stays black.
    return jnp.exp((1 + strength) ** _draw_symmetric(key) * jnp.log(image))


def change_contrast(image: jax.Array, *, strength: float, key: jax.Array) -> jax.Array:
    """Multiplies distances from the mean by a factor in 1 - strength .. 1 + strength. Not clipped."""
    mean = image.mean()
    return (image - mean) * (1 + strength * _draw_symmetric(key)) + mean


def change_brightness(image: jax.Array, *, strength: float, key: jax.Array) -> jax.Array:
    """Adds a number in -strength .. strength. Not clipped."""
    return image + strength * _draw_symmetric(key)


def add_noise(image: jax.Array, *, strength: float, key: jax.Array) -> jax.Array:
    """Adds noise with a standard deviation in 0 .. `strength`.

    Each value is the sum of four uniform numbers of 16 levels, which is nearly Gaussian: most of the time is that of
    the random bits, of which normal numbers need twice as many.
    """
    size = len(image)
    bits = jax.random.bits(jax.random.fold_in(key, 1), ((size + 1) // 2, size), jnp.uint32)  # for two rows each
    total = jnp.concatenate([_add_nibbles(bits), _add_nibbles(bits >> 16)])[:size]
    mean, deviation = 4 * 7.5, (4 * (16**2 - 1) / 12) ** 0.5
    return jnp.clip(image + strength * _draw(key, 0) / deviation * (total - mean), 0, 1)


def _add_nibbles(bits: jax.Array) -> jax.Array:
    """Returns the sum of the four lowest groups of four bits of each value."""
    return sum(((bits >> shift & 15).astype(jnp.float32) for shift in (0, 4, 8, 12)), start=jnp.zeros(bits.shape))


def cut_out(image: jax.Array, *, strength: float, key: jax.Array) -> jax.Array:
    """Fills a random rectangle with a random grey in half of the images (random erasing, arXiv:1708.04896).

    Args:
      image: [S, S] float32.
      strength: largest sides of the rectangle, as fractions of the image's side.
      key: random key.
    """
    size = len(image)
    chance, height, width, top, left, grey = jax.random.uniform(key, (6,), jnp.float32)
    height, width = jnp.ceil(strength * height * size), jnp.ceil(strength * width * size)
    top, left = jnp.floor(top * (size - height + 1)), jnp.floor(left * (size - width + 1))
    places = jnp.arange(size)
    inside = ((places >= top) & (places < top + height))[:, None] & (places >= left) & (places < left + width)
    return jnp.where(inside & (chance >= 0.5), grey, image)


def _draw(key: jax.Array, number: int) -> jax.Array:
    """Draws a number in [0, 1), [] float32."""
    return jax.random.uniform(jax.random.fold_in(key, number), (), jnp.float32)


def _draw_symmetric(key: jax.Array) -> jax.Array:
    """Draws a number in [-1, 1), [] float32."""
    return jax.random.uniform(key, (), jnp.float32, -1, 1)
