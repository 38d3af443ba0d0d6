"""The jitted training step over a mesh of devices, and the optimiser, which nothing else knows."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from bt_jax.common.errors import UsageError
from bt_jax.distributed import sharding
from bt_jax.models.normalise import Normalisation
from bt_jax.models.registry import Network, Tree
from bt_jax.training import accumulation


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
    def joined(cls, evaluation: Tree, resuming: Tree) -> "TrainState":
        """The inverse of the two above."""
        current = evaluation if resuming["current"] is None else resuming["current"]
        return cls(
            step=resuming["step"],
            params=current["params"],
            batch_stats=current["batch_stats"],
            opt_state=resuming["opt_state"],
            average=None if resuming["current"] is None else evaluation,
        )


def compute_dtype(name: str) -> jnp.dtype:
    """`float32`, `bfloat16`, `auto` (bfloat16 where the hardware multiplies it faster), or, to compare, `float64`."""
    if name == "auto":
        name = "float32" if jax.default_backend() == "cpu" else "bfloat16"
    if name not in ("float32", "bfloat16", "float64"):
        raise UsageError(f"config.train.dtype is {name!r}: use auto, float32, bfloat16 or float64")
    if name == "float64" and not jax.config.read("jax_enable_x64"):
        raise UsageError("config.train.dtype is 'float64', which needs the environment variable JAX_ENABLE_X64=1")
    return jnp.dtype(name)


def make_optimizer(
    segment_names: Sequence[str], *, name: str, weight_decay: float, b1: float, b2: float, clip_norm: float
) -> optax.GradientTransformationExtraArgs:
    """Adam or AdamW for each segment by itself, asleep as long as the segment is frozen.

    Each segment has a masked state with a step count of its own: it begins when the segment is unfrozen (a shared count
    would leave Adam's bias correction out, and multiply the first steps of new segments by up to 6), keeps its moments
    over the stages, and has the same shape in all of them, so every checkpoint restores in every stage. A frozen
    segment gets no update, no decay, and its state does not move.

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

    def asleep_unless_trained(segment: str) -> optax.GradientTransformationExtraArgs:
        awake = optax.conditionally_mask(
            optax.chain(*direction), lambda _, *, trained: trained[segment], forward_extra_args=True
        )

        def update(updates: Tree, state: Any, params: Tree | None = None, **arguments: Any) -> tuple[Tree, Any]:
            if arguments["trained"][segment] is False:  # known before compilation, which is much shorter without it
                return optax.tree.zeros_like(updates), state
            return awake.update(updates, state, params, **arguments)

        return optax.GradientTransformationExtraArgs(awake.init, update)

    def labels(tree: Tree) -> Tree:
        for path, _ in jax.tree_util.tree_leaves_with_path(tree):
            if path[0].key not in segment_names:
                raise ValueError(f"parameter {jax.tree_util.keystr(path)} belongs to no segment of the plan")
        return {segment: jax.tree.map(lambda _, label=segment: label, part) for segment, part in tree.items()}

    per_segment = optax.partition({name: asleep_unless_trained(name) for name in segment_names}, labels)
    clip = [optax.clip_by_global_norm(clip_norm)] if clip_norm else []
    return optax.chain(*clip, per_segment)


def is_kernel(tree: Tree) -> Tree:
    """True for the parameters named `kernel`."""
    return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key == "kernel", tree)


def initial_state(
    params: Tree, batch_stats: Tree, optimizer: optax.GradientTransformationExtraArgs, *, averaging: bool
) -> TrainState:
    """The state before the first step. The averages start at the weights, as copies: a step donates the state."""
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        batch_stats=batch_stats,
        opt_state=jax.jit(optimizer.init)(params),  # op by op it would compile hundreds of small programs
        average=jax.tree.map(jnp.copy, {"params": params, "batch_stats": batch_stats}) if averaging else None,
    )


def calibrated_statistics(
    network: Network, params: Tree, batch_stats: Tree, *, images: np.ndarray, normalisation: Normalisation
) -> Tree:
    """Running statistics measured on images, for a network with random weights.

    Those it is built with fit nothing: frozen, the network would put out next to zero. The head learns its own.

    Args:
      network: built with a BatchNorm momentum of 0, so that a single batch replaces the statistics.
      params: of the network.
      batch_stats: of the network.
      images: [B, S, S] float32 in [0, 1].
      normalisation: from grey pixels to what the network expects.
    """

    @jax.jit
    def measure(params: Tree, batch_stats: Tree, images: jax.Array) -> Tree:
        head, key = network.segment_names[-1], jax.random.key(0)
        return network.apply(params, batch_stats, normalisation(images), stop=head, trained=True, dropout_key=key)[1]

    return measure(params, batch_stats, images)


def class_weights(setting: str | Sequence[float], labels: np.ndarray, classes: int) -> np.ndarray:
    """Weight of each class in the loss: [classes] float32.

    Args:
      setting: `none`; `balanced`, N / (classes present x images of the class) as scikit-learn's
        `compute_class_weight`, 0 for a class without images; or numbers in class order, also as "1,1,2,1".
      labels: [N] of the training images.
      classes: number of classes.
    """
    if setting == "none":
        return np.ones(classes, np.float32)
    if setting == "balanced":
        counts = np.bincount(labels, minlength=classes)
        weights = len(labels) / ((counts > 0).sum() * np.maximum(counts, 1))
        return np.where(counts > 0, weights, 0).astype(np.float32)
    try:
        values = np.array([float(value) for value in (setting.split(",") if isinstance(setting, str) else setting)])
    except ValueError:
        values = np.array([])
    if values.shape != (classes,) or not np.isfinite(values).all() or (values < 0).any():
        raise UsageError(
            f"config.loss.class_weights is {setting!r}: use none, balanced, or {classes} numbers that are not negative"
        )
    return values.astype(np.float32)


def make_train_step(
    network: Network,
    optimizer: optax.GradientTransformationExtraArgs,
    *,
    mesh: Mesh,
    normalisation: Normalisation,
    weights: np.ndarray,
    label_smoothing: float,
    average_decay: float,
    dtype: jnp.dtype,
    seed: int,
    program_segment: int,
    mixup: float = 0.0,
    accumulate: int = 1,
    state_shardings: Any = None,
) -> Callable[..., tuple[TrainState, dict[str, jax.Array]]]:
    """Builds the jitted step for the stages of one program.

    Below `program_segment` the network runs in inference form and nothing of it has a gradient. From there up a segment
    trains where `first_segment`, given at run time, is not above it.

    The loss is the mean of the weighted cross-entropies of the global batch, not divided by the sum of their weights
    (as in Keras, not PyTorch). Where two images are mixed, it is that of both labels, each with its own weight, in the
    shares of the mixture.

    Args:
      network: the model.
      optimizer: from `make_optimizer`.
      mesh: from `sharding.make_mesh`; the batch is divided among its devices.
      normalisation: from grey pixels to what the network expects.
      weights: [classes] float32, see `class_weights`.
      label_smoothing: share of the target that is spread over all classes (arXiv:1512.00567).
      average_decay: of the moving average; ramped up as (1 + step) / (10 + step) at the start.
      dtype: of the computation; parameters, statistics and loss stay float32.
      seed: of dropout and stochastic depth.
      program_segment: number of the lowest segment that can train.
      mixup: images (or features) of the batch are mixed in pairs, by shares that have the Beta distribution with both
        parameters of this value (arXiv:1710.09412); the larger share is that of the image whose label counts for the
        accuracy. 0 is off.
      accumulate: parts of the batch that follow one another within a step, see `accumulation`; mixing, the statistics
        of BatchNorm and dropout are those of a part.
      state_shardings: of the state, from `sharding.ShardingRules`; None: it is whole on each device.

    Returns:
      step(state, batch, learning_rate, first_segment) -> (state, metrics). The state is donated. `batch` has `label`
      [B] int32, and either `image` [B, S, S] float32 in [0, 1] or `features` [B, ...] float32, what the segments below
      `program_segment` make of it; it may have `weight` [B] float32, that of each image, besides its class's.
      Metrics are the scalars `loss`, `accuracy`, `gradient_norm`.
    """
    names = network.segment_names
    weight_of = jnp.asarray(weights)
    everywhere = sharding.get_replicated_sharding(mesh)

    def trained_flags(first_segment: jax.Array) -> tuple[bool | jax.Array, ...]:
        return tuple(i >= first_segment if i >= program_segment else False for i in range(len(names)))

    def loss_of(
        params: Tree, batch_stats: Tree, batch: dict[str, jax.Array], key: jax.Array, first_segment: jax.Array
    ) -> tuple[jax.Array, tuple[Tree, jax.Array]]:
        if state_shardings is not None:  # gathered once: left to itself, the compiler would rather move the images
            params = jax.lax.with_sharding_constraint(params, everywhere)
        flags = trained_flags(first_segment)
        params = {
            name: jax.tree.map(lambda leaf, flag=flag: _frozen_unless(flag, leaf), params[name])
            for name, flag in zip(names, flags, strict=True)
        }
        if "features" in batch:
            x, start = batch["features"].astype(dtype), names[program_segment]
        else:
            x, start = normalisation(batch["image"], dtype=dtype), None
        share = None
        if mixup:
            share = _shares(key, len(x), parameter=mixup)
            spread = share.reshape(-1, *[1] * (x.ndim - 1)).astype(x.dtype)
            x = spread * x + (1 - spread) * x[::-1]
        logits, batch_stats = network.apply(params, batch_stats, x, start=start, trained=flags, dropout_key=key)
        targets = optax.smooth_labels(jax.nn.one_hot(batch["label"], logits.shape[-1]), label_smoothing)
        weight = weight_of[batch["label"]]
        if "weight" in batch:
            weight *= batch["weight"]
        losses = optax.softmax_cross_entropy(logits, targets) * weight
        if share is not None:
            others = optax.softmax_cross_entropy(logits, targets[::-1]) * weight[::-1]
            losses = share * losses + (1 - share) * others
        return losses.mean(), (batch_stats, (logits.argmax(-1) == batch["label"]).mean())

    gradients_of = jax.value_and_grad(loss_of, has_aux=True)
    if accumulate > 1:
        gradients_of = accumulation.in_parts(gradients_of, accumulate)

    def train_step(
        state: TrainState, batch: dict[str, jax.Array], learning_rate: jax.Array, first_segment: jax.Array
    ) -> tuple[TrainState, dict[str, jax.Array]]:
        key = jax.random.fold_in(jax.random.key(seed), state.step)
        (loss, (batch_stats, accuracy)), gradients = gradients_of(
            state.params, state.batch_stats, batch, key, first_segment
        )
        # Layers that compute in float64 may give gradients in it; parameters and moments stay as they are.
        gradients = jax.tree.map(lambda gradient, parameter: gradient.astype(parameter.dtype), gradients, state.params)
        trained = dict(zip(names, trained_flags(first_segment), strict=True))
        updates, opt_state = optimizer.update(gradients, state.opt_state, state.params, trained=trained)
        # What is frozen here was never trained before, so it is its own average, and need not be touched.
        moving = names[program_segment:]
        updates = optax.tree.scale(learning_rate, _only(updates, moving))
        params = state.params | optax.apply_updates(_only(state.params, moving), updates)
        average = state.average
        if average is not None:
            decay = jnp.minimum(average_decay, (1 + state.step) / (10 + state.step))
            now = {"params": params, "batch_stats": batch_stats}
            average = {
                kind: old | optax.incremental_update(_only(now[kind], moving), _only(old, moving), 1 - decay)
                for kind, old in average.items()
            }
        metrics = {
            "loss": loss,
            "accuracy": accuracy,
            "gradient_norm": optax.tree.norm(_only(gradients, moving)),
        }
        return TrainState(state.step + 1, params, batch_stats, opt_state, average), metrics

    of_state = everywhere if state_shardings is None else state_shardings
    return jax.jit(
        train_step,
        in_shardings=(of_state, sharding.get_batch_sharding(mesh), everywhere, everywhere),
        out_shardings=(of_state, everywhere),
        donate_argnums=0,
    )


def _shares(key: jax.Array, rows: int, *, parameter: float) -> jax.Array:
    """[rows] float32 in [0.5, 1], of the larger part of each mixture, independent of what else the key is used for."""
    share = jax.random.beta(jax.random.fold_in(key, 2**31 - 1), parameter, parameter, (rows,), jnp.float32)
    return jnp.maximum(share, 1 - share)


def _frozen_unless(flag: bool | jax.Array, leaf: jax.Array) -> jax.Array:
    if flag is False:
        return jax.lax.stop_gradient(leaf)
    return leaf if flag is True else jnp.where(flag, leaf, jax.lax.stop_gradient(leaf))


def _only(tree: Tree, names: Sequence[str]) -> Tree:
    """The segments named, those that the tree has."""
    return {name: tree[name] for name in names if name in tree}
