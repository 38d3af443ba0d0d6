"""Random views of images, computed where the network is: a pure function of pixels, seed, view and record.

The host only names the images and their views. So the numbers are the same for any number of hosts, devices and loader
threads, and pixels travel to the device as bytes.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from bt_jax.data.augment import filters, geometry, photometric
from bt_jax.data.augment.settings import Augmentation

# Keeps the stream apart from those of the steps, which fold their number into the same seed.
_STREAM = 2**32 - 1

# In the order of application. The number of an operation belongs to its random draws: switching one off does not change
# the others, and a new one takes a new number.
_LOOKS = {
    "bias_field": (1, photometric.apply_bias_field),
    "sharpness": (2, photometric.sharpen),
    "resolution": (3, photometric.reduce_resolution),
    "blur": (4, photometric.blur),
    "curve": (5, photometric.apply_curve),
    "gamma": (6, photometric.change_gamma),
    "contrast": (7, photometric.change_contrast),
    "brightness": (8, photometric.change_brightness),
}
_LAST = {"noise": (9, photometric.add_noise), "cutout": (10, photometric.cut_out)}
_GEOMETRY = 0


def augment(
    images: jax.Array, view: jax.Array, record: jax.Array, *, seed: int | jax.Array, settings: Augmentation
) -> jax.Array:
    """Computes a random view of each image: [B, S, S] float32 in [0, 1]. For use in a jitted function.

    All geometry is one bilinear warp with black outside. Changes of appearance, blur, intensities (curve, gamma,
    contrast, brightness), noise and cutout follow.

    Args:
      images: [B, S, S] uint8.
      view: number of the view of each image, such as the epoch, [B] uint32.
      record: number of each image, [B] uint32.
      seed: of all views.
      settings: strength of each operation. With everything off, the views are the images.
    """
    base = jax.random.fold_in(jax.random.key(seed), _STREAM)

    def augment_one(image: jax.Array, view: jax.Array, record: jax.Array) -> jax.Array:
        return _augment_image(image, jax.random.fold_in(jax.random.fold_in(base, view), record), settings)

    return jax.vmap(augment_one)(images, view, record)


def reduce_size(images: jax.Array, size: int) -> jax.Array:
    """Reduces images [B, S, S] uint8 to [B, size, size] uint8, as Pillow's bilinear filter does."""
    matrix = filters.make_resampling(images.shape[1], size, length=size, kernel=1)
    reduced = jax.vmap(functools.partial(filters.filter_by, matrix))(images.astype(jnp.float32))
    return jnp.round(reduced).astype(jnp.uint8)


def encode_seed(seed: int) -> np.int32:
    """Returns the 32 bits of a seed that `jax.random.key` uses, as an argument for a program."""
    return np.int64(seed).astype(np.int32)


@functools.partial(jax.jit, static_argnames=("seed", "settings"))
def compute_views(
    images: np.ndarray, view: np.ndarray, record: np.ndarray, *, seed: int, settings: Augmentation
) -> jax.Array:
    """Computes what `augment` does, for use outside of a jitted function."""
    return augment(jnp.asarray(images), jnp.asarray(view), jnp.asarray(record), seed=seed, settings=settings)


def _augment_image(image: jax.Array, key: jax.Array, settings: Augmentation) -> jax.Array:
    warp = geometry.draw_warp(jax.random.fold_in(key, _GEOMETRY), settings)
    x = image.astype(jnp.float32) / 255 if warp is None else warp(image)
    for looks in _LOOKS, _LAST:
        for name, (number, look) in looks.items():
            if strength := getattr(settings, name):
                x = look(x, strength=strength, key=jax.random.fold_in(key, number))
        if settings.contrast or settings.brightness:
            x = jnp.clip(x, 0, 1)
    return x
