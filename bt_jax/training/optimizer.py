"""The optimiser: Adam for each segment of a network by itself."""

import functools
from typing import Any, TypeAlias

import jax
import optax

from bt_jax.common.errors import UsageError
from bt_jax.models.registry import Tree

Optimizer: TypeAlias = optax.GradientTransformationExtraArgs


@functools.cache  # equal settings give the same object, so that steps can be told to be equal
def make_optimizer(
    segment_names: tuple[str, ...], *, name: str, weight_decay: float, b1: float, b2: float, clip_norm: float
) -> Optimizer:
    """Creates Adam or AdamW for each segment by itself; a frozen segment's optimiser does nothing.

    Each segment has a masked state with its own step count, which begins when the segment is unfrozen. A shared count
    would skip Adam's bias correction and multiply the first steps of new segments by up to 6. The state keeps its
    moments over the stages and has the same shape in all of them, so every checkpoint restores in every stage. A frozen
    segment gets no update and no decay, and its state does not change.

    Trees of any form are taken; a training step gives vectors, see `flat_layout`.

    The updates are for a learning rate of 1. `update` takes `trained={segment: bool}`.

    Args:
      segment_names: of the model; a parameter outside of them is an error that names it.
      name: `adam` (arXiv:1412.6980) or `adamw` (arXiv:1711.05101).
      weight_decay: of kernels, for `adamw`; biases and BatchNorm parameters never decay.
      b1: decay of the first moment.
      b2: decay of the second moment.
      clip_norm: largest global norm of the gradient of what is trained; 0 is off.
    """
    if name not in ("adam", "adamw"):
        raise UsageError(f"config.optimizer.name is {name!r}: use adam or adamw")
    direction = [optax.scale_by_adam(b1=b1, b2=b2)]
    if name == "adamw" and weight_decay:
        direction.append(optax.add_decayed_weights(weight_decay, mask=is_kernel))
    direction.append(optax.scale(-1.0))

    def label_by_segment(tree: Tree) -> Tree:
        for path, _ in jax.tree_util.tree_leaves_with_path(tree):
            if path[0].key not in segment_names:
                raise ValueError(f"parameter {jax.tree_util.keystr(path)} belongs to no segment of the plan")
        return {segment: jax.tree.map(lambda _, label=segment: label, part) for segment, part in tree.items()}

    transforms = {name: _freeze_unless_trained(name, optax.chain(*direction)) for name in segment_names}
    per_segment = optax.partition(transforms, label_by_segment)
    clip = [optax.clip_by_global_norm(clip_norm)] if clip_norm else []
    return optax.chain(*clip, per_segment)


def _freeze_unless_trained(segment: str, direction: optax.GradientTransformation) -> Optimizer:
    """Computes the update in any case and selects: a branch would be a round trip to the host on a GPU."""

    def update(updates: Tree, state: Any, params: Tree | None = None, **arguments: Any) -> tuple[Tree, Any]:
        trained, zeros = arguments["trained"][segment], optax.tree.zeros_like(updates)
        if trained is False:  # known before compilation, which is shorter without it
            return zeros, state
        moved: tuple[Tree, Any] = optax.tree.where(trained, direction.update(updates, state, params), (zeros, state))
        return moved

    return Optimizer(direction.init, update)


def is_kernel(tree: Tree) -> Tree:
    """Marks the parameters named `kernel` with True."""
    return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key == "kernel", tree)
