"""What a training step changes, and how it divides into the parts of a checkpoint."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from bt_jax.models.registry import Tree
from bt_jax.training.flat_layout import FlatLayout
from bt_jax.training.optimizer import Optimizer
from bt_jax.workdir.checkpoint import Checkpoints, make_abstract

STATE_FORMAT = 2  # of what is saved for resuming; 1, which is not saved, had each parameter by itself


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["step", "params", "batch_stats", "opt_state", "average"],
    meta_fields=["layout", "stats_layout"],
)
@dataclasses.dataclass
class TrainState:
    """Everything that a step changes. Vectors are laid out by `FlatLayout`.

    Attributes:
      step: int32 [], steps done.
      params: {segment: vectors} float32.
      batch_stats: {segment: ...} float32, the tree of the network.
      opt_state: one masked optimiser state per segment, of vectors, of the same shape in all stages.
      average: exponential moving averages {`params`, `batch_stats`} as vectors, or None where they are off.
      layout: of `params`.
      stats_layout: of `average["batch_stats"]`.
    """

    step: jax.Array
    params: Tree
    batch_stats: Tree
    opt_state: Any
    average: Tree | None
    layout: FlatLayout
    stats_layout: FlatLayout

    def get_params(self) -> Tree:
        """Returns the current parameters, {segment: ...}, as the network takes them."""
        return _unflatten(self.params, self.layout)

    def get_evaluation_weights(self) -> Tree:
        """Returns {`params`, `batch_stats`} to score and to keep: the averages where they are on."""
        if self.average is None:
            return {"params": self.get_params(), "batch_stats": self.batch_stats}
        return {
            "params": _unflatten(self.average["params"], self.layout),
            "batch_stats": _unflatten(self.average["batch_stats"], self.stats_layout),
        }

    def get_resuming_state(self) -> Tree:
        """Returns the rest of the state."""
        current = {"params": self.params, "batch_stats": self.batch_stats}
        return {
            "step": self.step,
            "opt_state": self.opt_state,
            "current": None if self.average is None else current,
        }

    def join(self, evaluation: Tree, resuming: Tree) -> "TrainState":
        """Returns the state of which the two methods above gave the parts, with the layouts and shardings of this."""
        kept = dataclasses.replace(self, step=resuming["step"], opt_state=resuming["opt_state"])
        if self.average is None:
            params = _flatten(evaluation["params"], self.layout, like=self.params)
            return dataclasses.replace(kept, params=params, batch_stats=evaluation["batch_stats"])
        average = {
            "params": _flatten(evaluation["params"], self.layout, like=self.params),
            "batch_stats": _flatten(evaluation["batch_stats"], self.stats_layout, like=self.average["batch_stats"]),
        }
        return dataclasses.replace(kept, **resuming["current"], average=average)


def create_state(params: Tree, batch_stats: Tree, optimizer: Optimizer, *, averaging: bool) -> TrainState:
    """Creates the state before the first step, of arrays of its own: a step donates them."""
    layout, stats_layout = FlatLayout.of(params), FlatLayout.of(batch_stats)

    @jax.jit  # op by op it would compile hundreds of small programs
    def create(params: Tree, batch_stats: Tree) -> TrainState:
        vectors = layout.flatten(params)
        return TrainState(
            step=jnp.zeros((), jnp.int32),
            params=vectors,
            batch_stats=jax.tree.map(jnp.copy, batch_stats),
            opt_state=optimizer.init(vectors),
            average={"params": jax.tree.map(jnp.copy, vectors), "batch_stats": stats_layout.flatten(batch_stats)}
            if averaging
            else None,
            layout=layout,
            stats_layout=stats_layout,
        )

    state: TrainState = create(params, batch_stats)
    return state


def restore_state(checkpoints: Checkpoints, step: int, *, like: TrainState) -> TrainState:
    """Restores the state saved at a step, with the shapes, dtypes and shardings of a given state."""
    evaluation, training = make_abstract(like.get_evaluation_weights()), make_abstract(like.get_resuming_state())
    return like.join(*checkpoints.restore(step, evaluation=evaluation, training=training))


def _flatten(tree: Tree, layout: FlatLayout, *, like: Mapping[str, Any]) -> Tree:
    """Lays out a tree with the shardings of given vectors."""
    shardings = jax.tree.map(lambda vector: vector.sharding, like)
    vectors: Tree = jax.jit(layout.flatten, out_shardings=shardings)(tree)
    return vectors


def _unflatten(vectors: Tree, layout: FlatLayout) -> Tree:
    """Returns the tree of some vectors, whole on every device."""
    placed = [vector.sharding for vector in jax.tree.leaves(vectors)]
    everywhere = None
    if placed and isinstance(placed[0], NamedSharding):
        everywhere = NamedSharding(placed[0].mesh, PartitionSpec())
    tree: Tree = _make_unflatten(layout, everywhere)(vectors)
    return tree


@functools.lru_cache(maxsize=8)  # every evaluation asks for it, and a new jitted function would compile anew
def _make_unflatten(layout: FlatLayout, everywhere: NamedSharding | None) -> Callable[[Tree], Tree]:
    return jax.jit(layout.unflatten, out_shardings=everywhere)
