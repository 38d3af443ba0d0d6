"""Normalisation of grey images in [0, 1] to the input that a network expects: three channels, shifted and scaled."""

import dataclasses

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike


@dataclasses.dataclass(frozen=True)
class Normalisation:
    """The map (value - mean) / std of values in [0, 1], per channel in the network's order, as the weights expect."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def __call__(self, grey: jax.Array, *, dtype: DTypeLike = jnp.float32) -> jax.Array:
        """Normalises [B, H, W], float32 in [0, 1] or uint8, to [B, H, W, 3] in `dtype`."""
        factor = 1 / jnp.asarray(self.std, jnp.float32)
        shift = -jnp.asarray(self.mean, jnp.float32) * factor
        return (to_float(grey)[..., None] * factor + shift).astype(dtype)


def to_float(images: jax.Array) -> jax.Array:
    """Converts uint8 to float32 in [0, 1]; float32 stays as it is."""
    return images.astype(jnp.float32) / 255 if images.dtype == jnp.uint8 else images


# (x - 127) / 128 for 8-bit values x: the EfficientNet-Lite models, and networks that start from random weights.
LITE = Normalisation(mean=(127 / 255,) * 3, std=(128 / 255,) * 3)
# The per-channel mean and standard deviation of ImageNet that PyTorch and timm use.
IMAGENET = Normalisation(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
