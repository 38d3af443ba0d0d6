"""Compiled steps that the runs of one process share, such as the folds of a cross-validation and the seeds of a sweep.

JAX's compilation cache on disk spares them the compiler, but not the tracing of a large network, which takes seconds
for each program.
"""

import contextlib
import dataclasses
from collections.abc import Hashable, Iterator

import jax

from bt_jax.training.stages import Stage
from bt_jax.training.train_state import TrainState
from bt_jax.training.train_step import Batch, StepFunction, TrainStep

_MOST = 32  # programs that are kept: a run has up to one for each stage
_shared: dict[Hashable, StepFunction] | None = None  # of `share_programs`


@contextlib.contextmanager
def share_programs() -> Iterator[None]:
    """Makes `compile_step` keep what it compiles, for several runs in one process.

    Within another such block it does nothing.
    """
    global _shared
    if _shared is not None:
        yield
        return
    _shared = {}
    try:
        yield
    finally:
        _shared = None


def compile_step(step: TrainStep, stage: Stage, state: TrainState, batch: Batch) -> StepFunction:
    """Returns `step.compile(stage, state, batch)`, or what it returned to a run with the same settings and shapes."""
    if _shared is None:
        return step.compile(stage, state, batch)
    key = _identify(step), stage.program_segment, _describe_shapes((state, batch))
    compiled = _shared.pop(key, None) or step.compile(stage, state, batch)
    while len(_shared) >= _MOST:
        del _shared[next(iter(_shared))]  # the one that was asked for the longest ago
    _shared[key] = compiled
    return compiled


def _identify(step: TrainStep) -> Hashable:
    """Returns all that a step is made of."""
    settings = {field.name: getattr(step, field.name) for field in dataclasses.fields(step)}
    leaves, structure = jax.tree.flatten(step.state_shardings)
    settings["state_shardings"] = tuple(leaves), structure
    return tuple(settings.items())


def _describe_shapes(tree: object) -> Hashable:
    leaves, structure = jax.tree.flatten(tree)
    return structure, tuple((leaf.shape, leaf.dtype) for leaf in leaves)
