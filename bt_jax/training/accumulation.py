"""Gradient accumulation: a batch too large for the memory, in parts that follow one another within a step."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from bt_jax.models.registry import Tree

# (params, batch_stats, batch, key, first_segment) -> ((loss, (batch_stats, accuracy)), gradients)
Gradients = tuple[tuple[jax.Array, tuple[Tree, jax.Array]], Tree]
GradientsOf = Callable[[Tree, Tree, dict[str, jax.Array], jax.Array, jax.Array], Gradients]


def in_parts(gradients_of: GradientsOf, parts: int) -> GradientsOf:
    """The function that takes the batch in parts of equal size: the means of loss, accuracy and gradients over them.

    Part i has rows i, i + parts, i + 2 parts, ... of the batch: some of each device's, so that no image moves, and the
    same ones however many devices there are. Each part moves the running statistics in turn, and draws numbers of its
    own.

    Args:
      gradients_of: of a whole batch, whose loss is a mean over its rows.
      parts: number of parts; divides the rows that a device holds.
    """

    def in_turn(
        params: Tree, batch_stats: Tree, batch: dict[str, jax.Array], key: jax.Array, first_segment: jax.Array
    ) -> Gradients:
        divided = {name: jnp.moveaxis(rows.reshape(-1, parts, *rows.shape[1:]), 1, 0) for name, rows in batch.items()}

        def one(carried: tuple[Any, Tree], part: tuple[jax.Array, dict[str, jax.Array]]) -> tuple[Any, None]:
            sums, batch_stats = carried
            number, rows = part
            (loss, (batch_stats, accuracy)), gradients = gradients_of(
                params, batch_stats, rows, jax.random.fold_in(key, number), first_segment
            )
            return (jax.tree.map(jnp.add, sums, (loss, accuracy, gradients)), batch_stats), None

        nothing = jnp.zeros(()), jnp.zeros(()), jax.tree.map(jnp.zeros_like, params)
        (sums, batch_stats), _ = jax.lax.scan(one, (nothing, batch_stats), (jnp.arange(parts), divided))
        loss, accuracy, gradients = jax.tree.map(lambda total: total / parts, sums)
        return (loss, (batch_stats, accuracy)), gradients

    return in_turn
