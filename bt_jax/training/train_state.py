"""What a training step changes, and how it divides into the parts of a checkpoint."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from bt_jax.models.registry import Tree
from bt_jax.training.optimizer import Optimizer
from bt_jax.workdir.checkpoint import Checkpoints, make_abstract


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

    def get_evaluation_weights(self) -> Tree:
        """Returns {`params`, `batch_stats`} to score and to keep: the averages where they are on."""
        if self.average is not None:
            return self.average
        return {"params": self.params, "batch_stats": self.batch_stats}

    def get_resuming_state(self) -> Tree:
        """Returns the rest of the state."""
        current = {"params": self.params, "batch_stats": self.batch_stats}
        return {
            "step": self.step,
            "opt_state": self.opt_state,
            "current": None if self.average is None else current,
        }

    @classmethod
    def join(cls, evaluation: Tree, resuming: Tree) -> "TrainState":
        """Returns the state of which the two methods above gave the parts."""
        current = evaluation if resuming["current"] is None else resuming["current"]
        return cls(
            step=resuming["step"],
            params=current["params"],
            batch_stats=current["batch_stats"],
            opt_state=resuming["opt_state"],
            average=None if resuming["current"] is None else evaluation,
        )


def create_state(params: Tree, batch_stats: Tree, optimizer: Optimizer, *, averaging: bool) -> TrainState:
    """Creates the state before the first step. The averages are copies: a step donates the state."""
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        batch_stats=batch_stats,
        opt_state=jax.jit(optimizer.init)(params),  # op by op it would compile hundreds of small programs
        average=jax.tree.map(jnp.copy, {"params": params, "batch_stats": batch_stats}) if averaging else None,
    )


def restore_state(checkpoints: Checkpoints, step: int, *, like: TrainState) -> TrainState:
    """Restores the state saved at a step, with the shapes, dtypes and shardings of a given state."""
    evaluation, training = make_abstract(like.get_evaluation_weights()), make_abstract(like.get_resuming_state())
    return TrainState.join(*checkpoints.restore(step, evaluation=evaluation, training=training))
