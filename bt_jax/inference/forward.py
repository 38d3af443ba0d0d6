"""Jitted forward functions of a network, whole or from a segment up, and their application to arrays of any length."""

import typing
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bt_jax.models.normalise import Normalisation, to_float

if typing.TYPE_CHECKING:  # Flax takes a while to import
    from bt_jax.models.registry import Network, Tree

# (params, batch_stats, images) -> arrays
Forward = Callable[[dict[str, Any], dict[str, Any], jax.Array | np.ndarray], tuple[jax.Array, ...]]


def make_forward(
    network: "Network",
    *,
    normalisation: Normalisation,
    dtype: jnp.dtype,
    mirrored: bool = False,
    shardings: tuple[Any, Any] | None = None,
    by_pairs: bool = False,
) -> Forward:
    """Makes the jitted function (params, batch_stats, images) -> (logits, features).

    Images are [B, S, S], uint8 or float32 in [0, 1]. Logits [B, classes] and features [B, D], the pooled inputs of the
    last segment, are float32.

    Args:
      network: the network to apply.
      normalisation: of its input.
      dtype: of the activations.
      mirrored: whether the outputs are the means over an image and its mirror image, left and right exchanged.
      shardings: those of the inputs and of the outputs; None runs on one device.
      by_pairs: whether the network runs on two images at a time, see `prefers_pairs`.
    """

    def compute(params: "Tree", batch_stats: "Tree", images: jax.Array) -> tuple[jax.Array, jax.Array]:
        last = network.segment_names[-1]
        x = normalisation(images, dtype=dtype)
        x, _ = network.apply(params, batch_stats, x, stop=last, by_pairs=by_pairs)
        logits, _ = network.apply(params, batch_stats, x, start=last)
        if len(network.segment_names) == 1:  # without hidden layers, the features are some of the pixels
            stride = choose_stride(network.size)
            return logits, to_float(images)[:, ::stride, ::stride].reshape(images.shape[0], -1)
        return logits, (x.mean((1, 2)) if x.ndim == 4 else x).astype(jnp.float32)

    def compute_mirrored(params: "Tree", batch_stats: "Tree", images: jax.Array) -> tuple[jax.Array, ...]:
        # An image is next to its mirror image, so that devices that divided the batch would exchange nothing.
        both = jnp.stack([images, images[:, :, ::-1]], axis=1).reshape(-1, *images.shape[1:])
        outputs = compute(params, batch_stats, both)
        return tuple(array.reshape(-1, 2, *array.shape[1:]).mean(1) for array in outputs)

    forward = compute_mirrored if mirrored else compute
    return jax.jit(forward, in_shardings=shardings[0], out_shardings=shardings[1]) if shardings else jax.jit(forward)


def prefers_pairs(devices: Iterable[jax.Device]) -> bool:
    """Returns whether frozen segments are faster on two images at a time, see `pairs.map_pairs`: on one CPU.

    Several devices divide a batch, so that the images of a pair would be on two of them.
    """
    return [device.platform for device in devices] == ["cpu"]


def choose_stride(size: int) -> int:
    """Chooses the distance between the pixels of an image of this side that are its features, without hidden layers."""
    return max(1, size // 32)


def make_upper_forward(
    network: "Network", *, start: str, dtype: jnp.dtype, shardings: tuple[Any, Any] | None = None
) -> Forward:
    """Makes the jitted function (params, batch_stats, features) -> (logits,) of the segments from `start` up.

    Features are [B, ...] float32, the inputs of the segment `start`. See `make_forward` for the other arguments.
    """

    def forward(params: "Tree", batch_stats: "Tree", features: jax.Array) -> tuple[jax.Array]:
        logits, _ = network.apply(params, batch_stats, features.astype(dtype), start=start)
        return (logits,)

    return jax.jit(forward, in_shardings=shardings[0], out_shardings=shardings[1]) if shardings else jax.jit(forward)


def compute_outputs(
    forward: Callable[..., tuple[jax.Array, ...]], *arguments: "Tree", images: np.ndarray, batch_size: int
) -> tuple[np.ndarray, ...]:
    """Applies a forward function in batches: preprocessed images [N, S, S] uint8 -> float32 arrays with N rows.

    Args:
      forward: (*arguments, images [B, S, S] uint8) -> arrays with B rows.
      *arguments: such as parameters and running statistics.
      images: N > 0 images, or features [N, ...] float32 for a forward of `make_upper_forward`.
      batch_size: B; the last batch is padded.
    """
    parts = []
    for start in range(0, len(images), batch_size):
        part = images[start : start + batch_size]
        padded = np.zeros((batch_size, *images.shape[1:]), images.dtype)
        padded[: len(part)] = part
        parts.append((forward(*arguments, padded), len(part)))
    return tuple(
        np.concatenate([np.asarray(array)[:valid] for array, (_, valid) in zip(arrays, parts, strict=True)])
        for arrays in zip(*(outputs for outputs, _ in parts), strict=True)
    )
