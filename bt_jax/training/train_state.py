"""What a training step changes, and how it divides into the parts of a checkpoint."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from bt_jax.models.registry import Tree
from bt_jax.training.optimizer import Optimizer


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class TrainState:
    """Everything that a step changes.

    Attributes:
      step: int32 [], steps done.
      params: {segment: ...} float32.
      batch_stats: {segment: ...} float32.
      opt_state: one masked optimiser state per segment, of the same shape in all stages.
      average: exponential moving averages {`params`, `batch_stats`}, or None where they are off.
    """

    step: jax.Array
    params: Tree
    batch_stats: Tree
    opt_state: Any
    average: Tree | None

    def for_evaluation(self) -> Tree:
        """{`params`, `batch_stats`} to score and to keep: the averaged ones where they are on."""
        if self.average is not None:
            return self.average
        return {"params": self.params, "batch_stats": self.batch_stats}

    def for_resuming(self) -> Tree:
        """What `for_evaluation` lacks of the whole state."""
        current = {"params": self.params, "batch_stats": self.batch_stats}
        return {
            "step": self.step,
            "opt_state": self.opt_state,
            "current": None if self.average is None else current,
        }

    @classmethod
    def join(cls, evaluation: Tree, resuming: Tree) -> "TrainState":
        """The inverse of the two above."""
        current = evaluation if resuming["current"] is None else resuming["current"]
        return cls(
            step=resuming["step"],
            params=current["params"],
            batch_stats=current["batch_stats"],
            opt_state=resuming["opt_state"],
            average=None if resuming["current"] is None else evaluation,
        )


def create_state(params: Tree, batch_stats: Tree, optimizer: Optimizer, *, averaging: bool) -> TrainState:
    """The state before the first step. The averages start at the weights, as copies: a step donates the state."""
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        batch_stats=batch_stats,
        opt_state=jax.jit(optimizer.init)(params),  # op by op it would compile hundreds of small programs
        average=jax.tree.map(jnp.copy, {"params": params, "batch_stats": batch_stats}) if averaging else None,
    )
