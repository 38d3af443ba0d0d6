"""A batch as pairs of images, which a CPU processes one after the other: the maps of a pair fit into its cache."""

from collections.abc import Callable

import jax
import jax.numpy as jnp


def map_pairs(function: Callable[..., jax.Array], *arrays: jax.Array) -> jax.Array:
    """Applies a function to two rows at a time: rows i and B - 1 - i of each array, in this order.

    Args:
      function: maps arrays with 2 rows to an array with 2 rows.
      *arrays: with B rows each; B is even.

    Returns:
      The outputs for all B rows, in the order of the inputs.
    """
    outputs = jax.lax.map(lambda pair: function(*pair), tuple(map(_fold, arrays)))
    return jnp.concatenate([outputs[:, 0], outputs[::-1, 1]])


def _fold(rows: jax.Array) -> jax.Array:  # [B, ...] -> [B / 2, 2, ...]
    half = len(rows) // 2
    return jnp.stack([rows[:half], rows[::-1][:half]], axis=1)
