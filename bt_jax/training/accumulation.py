"""Gradient accumulation: a batch that is too large for the memory is processed in parts within one step."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from bt_jax.models.registry import Tree

# ((loss, (batch_stats, accuracy)), gradients)
Gradients = tuple[tuple[jax.Array, tuple[Tree, jax.Array]], Tree]


def accumulate(
    compute_gradients: Callable[..., Any],
    parts: int,
    params: Tree,
    batch_stats: Tree,
    batch: dict[str, jax.Array],
    key: jax.Array,
    flags: tuple[bool | jax.Array, ...],
) -> Gradients:
    """Computes the means of loss, accuracy and gradients over parts of equal size.

    Part i has the rows i, i + parts, i + 2 parts, ... of the batch. Each device holds some of them, so no image moves,
    and they are the same for any number of devices. The parts update the running statistics one after the other, and
    each draws its own random numbers.

    Args:
      compute_gradients: computes `Gradients` from the arguments below for a whole batch, whose loss is a mean over its
        rows.
      parts: number of parts; divides the number of rows on each device.
      params: of the network.
      batch_stats: of the network.
      batch: arrays with a row for each image.
      key: random key of the step.
      flags: for each segment whether it trains.
    """
    divided = {name: jnp.moveaxis(rows.reshape(-1, parts, *rows.shape[1:]), 1, 0) for name, rows in batch.items()}

    def add_part(carried: tuple[Any, Tree], part: tuple[jax.Array, dict[str, jax.Array]]) -> tuple[Any, None]:
        sums, batch_stats = carried
        number, rows = part
        (loss, (batch_stats, accuracy)), gradients = compute_gradients(
            params, batch_stats, rows, jax.random.fold_in(key, number), flags
        )
        return (jax.tree.map(jnp.add, sums, (loss, accuracy, gradients)), batch_stats), None

    zeros = jnp.zeros(()), jnp.zeros(()), jax.tree.map(jnp.zeros_like, params)
    (sums, batch_stats), _ = jax.lax.scan(add_part, (zeros, batch_stats), (jnp.arange(parts), divided))
    loss, accuracy, gradients = jax.tree.map(lambda total: total / parts, sums)
    return (loss, (batch_stats, accuracy)), gradients
