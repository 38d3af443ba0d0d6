"""The training step: forward, loss, gradients, update and averages, compiled over a mesh of devices."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from bt_jax.common.errors import UsageError
from bt_jax.data.augment.augment import augment, reduce_size
from bt_jax.data.augment.settings import Augmentation
from bt_jax.distributed import sharding
from bt_jax.models.normalise import Normalisation
from bt_jax.models.registry import Network, Tree
from bt_jax.ops.platform import materialise, trace_for
from bt_jax.training import accumulation
from bt_jax.training.accumulation import Gradients
from bt_jax.training.optimizer import Optimizer
from bt_jax.training.stages import Stage
from bt_jax.training.train_state import TrainState

Batch = Mapping[str, Any]  # arrays, or their shapes and dtypes
Metrics = dict[str, jax.Array]
# (state, batch, learning_rate, first_segment, seed) -> (state, metrics); see `TrainStep.jit`.
StepFunction = Callable[..., tuple[TrainState, Metrics]]
Flags = tuple[bool | jax.Array, ...]  # for each segment whether it trains; False if that is known at compile time


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainStep:
    """The training step of a run. Stages that share a program share its compiled form.

    Below `program_segment`, the lowest segment that a program can train, the network runs in inference mode and has no
    gradients. From there up, a segment trains if it is not below `first_segment`. That is given at run time, and so is
    the seed of augmentation, dropout and stochastic depth: runs with other seeds need no other program.

    The loss is the mean of the weighted cross-entropies of the global batch. It is not divided by the sum of the
    weights (as in Keras, not as in PyTorch). For two mixed images it is the weighted sum of the losses for both labels.

    Attributes:
      network: the model.
      optimizer: from `optimizer.make_optimizer`.
      mesh: from `sharding.make_mesh`; its devices divide the batch.
      normalisation: from grey pixels to what the network expects.
      label_smoothing: share of the target that is spread over all classes (arXiv:1512.00567).
      average_decay: of the moving average; at the start it is at most (1 + step) / (10 + step).
      dtype: of the computation; parameters, statistics and loss stay float32.
      augmentation: of the images of a batch; None: they are taken as they are.
      image_size: side in pixels that images are reduced to before; 0: they stay as they are.
      mixup: parameter of the Beta distribution of the shares in which images (or features) of a batch are mixed in
        pairs (arXiv:1710.09412); the accuracy counts the label of the image with the larger share. 0 is off.
      mixed_segments: names of segments after which images exchange their style, see `layers.mix_style`; where a stage
        starts from features, those below have exchanged none.
      by_pairs: whether segments that do not train run on two images at a time, see `forward.prefers_pairs`.
      accumulate: number of parts of the batch that are processed one after the other within a step, see
        `accumulation`; mixing, the statistics of BatchNorm and dropout are computed for each part.
      state_shardings: of the state, from `sharding.ShardingRules`; None: every device holds the whole state.
    """

    network: Network
    optimizer: Optimizer
    mesh: Mesh
    normalisation: Normalisation
    label_smoothing: float
    average_decay: float
    dtype: jnp.dtype
    augmentation: Augmentation | None = None
    image_size: int = 0
    mixup: float = 0.0
    mixed_segments: tuple[str, ...] = ()
    by_pairs: bool = False
    accumulate: int = 1
    state_shardings: Any = None

    def compile(self, stage: Stage, state: TrainState, batch: Batch) -> StepFunction:
        """Returns the compiled step of a stage. Shapes and dtypes serve as well as arrays."""
        compiled: StepFunction = self.lower(stage.program_segment, state, batch).compile()
        return compiled

    def lower(self, program_segment: int, state: TrainState, batch: Batch) -> Any:
        """Returns the step of a program as a `jax.stages.Lowered`. Shapes and dtypes serve as well as arrays."""
        shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), (state, batch))
        scalars = (jax.ShapeDtypeStruct((), dtype) for dtype in (np.float32, np.int32, np.int32))
        return self.jit(program_segment).lower(*shapes, *scalars)

    def jit(self, program_segment: int) -> Any:
        """Returns the jitted step of a program.

        It maps (state, batch, learning_rate, first_segment, seed) to (state, metrics) and donates the state. `seed` is
        from `encode_seed`. `batch` has `label` [B] int32, and either `image` [B, S, S] uint8 with the numbers `view`
        and `record` [B] uint32 of the random view to take, or `features` [B, ...] float32, the outputs of the segments
        below `program_segment`. It may have `weight` [B] float32, of the images in the loss. Metrics are the scalars
        `loss`, `accuracy` and `gradient_norm`.
        """
        everywhere = sharding.get_replicated_sharding(self.mesh)
        state_shardings = everywhere if self.state_shardings is None else self.state_shardings
        return jax.jit(
            _Program(self, program_segment).train_step,
            in_shardings=(state_shardings, sharding.get_batch_sharding(self.mesh), *[everywhere] * 3),
            out_shardings=(state_shardings, everywhere),
            donate_argnums=0,
        )


class _Program:
    """What is traced for the stages that share a program."""

    def __init__(self, settings: TrainStep, program_segment: int):
        self._settings, self._program_segment = settings, program_segment
        self._names = settings.network.segment_names

    def train_step(
        self,
        state: TrainState,
        batch: dict[str, jax.Array],
        learning_rate: jax.Array,
        first_segment: jax.Array,
        seed: jax.Array,
    ) -> tuple[TrainState, Metrics]:
        """Runs one step, see `TrainStep.jit`."""
        # Gathered once: left to itself, the compiler would rather move the images.
        tree = state.layout.unflatten(self._gather(state.params))
        key = jax.random.fold_in(jax.random.key(seed), state.step)
        flags = self._flag_trained(first_segment)
        (loss, (batch_stats, accuracy)), gradients = self._compute_gradients(
            tree, state.batch_stats, self._augment(batch, seed), key, flags
        )
        # Layers that compute in float64 may give gradients in it; parameters and moments stay as they are.
        gradients = jax.tree.map(lambda gradient, parameter: gradient.astype(parameter.dtype), gradients, tree)
        # What is frozen here was never trained before, so it is its own average, and need not be touched.
        moving = self._names[self._program_segment :]
        trained = dict(zip(self._names, flags, strict=True))
        slopes = {
            name: optax.tree.where(trained[name], vectors, optax.tree.zeros_like(vectors))
            for name, vectors in self._gather(state.layout.flatten(_select(gradients, moving))).items()
        }
        updates, opt_state = self._settings.optimizer.update(
            optax.tree.zeros_like(state.params) | slopes, state.opt_state, state.params, trained=trained
        )
        updates = optax.tree.scale(learning_rate, _select(updates, moving))
        params = state.params | optax.apply_updates(_select(state.params, moving), updates)
        metrics = {"loss": loss, "accuracy": accuracy, "gradient_norm": optax.tree.norm(slopes)}
        average = self._update_average(state, params, batch_stats)
        moved = dataclasses.replace(
            state, step=state.step + 1, params=params, batch_stats=batch_stats, opt_state=opt_state, average=average
        )
        return moved, metrics

    def _gather(self, vectors: Tree) -> Tree:
        """Keeps vectors whole on every device where the state is divided."""
        if self._settings.state_shardings is None:
            return vectors
        everywhere = sharding.get_replicated_sharding(self._settings.mesh)
        gathered: Tree = jax.lax.with_sharding_constraint(vectors, everywhere)
        return gathered

    def _compute_gradients(
        self, params: Tree, batch_stats: Tree, batch: dict[str, jax.Array], key: jax.Array, flags: Flags
    ) -> Gradients:
        compute = jax.value_and_grad(self._compute_loss, has_aux=True)
        arguments = params, batch_stats, batch, key, flags
        with trace_for(self._settings.mesh.devices.flat[0].platform):
            if self._settings.accumulate > 1:
                return accumulation.accumulate(compute, self._settings.accumulate, *arguments)
            found: Gradients = compute(*arguments)
            return found

    def _compute_loss(
        self, params: Tree, batch_stats: Tree, batch: dict[str, jax.Array], key: jax.Array, flags: Flags
    ) -> tuple[jax.Array, tuple[Tree, jax.Array]]:
        """Returns (loss, (batch_stats, accuracy))."""
        settings = self._settings
        frozen = self._names[: self._program_segment]
        params = params | jax.lax.stop_gradient(_select(params, frozen))
        if "features" in batch:
            x, start = batch["features"].astype(settings.dtype), self._names[self._program_segment]
        else:
            x, start = settings.normalisation(batch["image"], dtype=settings.dtype), None
        share = None
        if settings.mixup:
            share = _draw_shares(key, len(x), parameter=settings.mixup)
            spread = share.reshape(-1, *[1] * (x.ndim - 1)).astype(x.dtype)
            x = spread * x + (1 - spread) * x[::-1]
        logits, batch_stats = settings.network.apply(
            params,
            batch_stats,
            x,
            start=start,
            trained=flags,
            dropout_key=key,
            mixed=settings.mixed_segments,
            by_pairs=settings.by_pairs,
        )
        accuracy = (logits.argmax(-1) == batch["label"]).mean()
        return self._compute_losses(logits, batch, share).mean(), (batch_stats, accuracy)

    def _augment(self, batch: dict[str, jax.Array], seed: jax.Array) -> dict[str, jax.Array]:
        """Returns a batch with views of its images, [B, S, S] float32 in [0, 1], in their place."""
        settings = self._settings
        if "image" not in batch:
            return batch
        image = reduce_size(batch["image"], settings.image_size) if settings.image_size else batch["image"]
        if settings.augmentation is not None:
            image = augment(image, batch["view"], batch["record"], seed=seed, settings=settings.augmentation)
        return batch | {"image": image}

    def _compute_losses(self, logits: jax.Array, batch: dict[str, jax.Array], share: jax.Array | None) -> jax.Array:
        """Returns the weighted cross-entropy of each row, [B] float32."""
        one_hot = jax.nn.one_hot(batch["label"], logits.shape[-1])
        targets = optax.smooth_labels(one_hot, self._settings.label_smoothing)
        weight = batch["weight"] if "weight" in batch else jnp.ones(len(logits))
        losses = optax.softmax_cross_entropy(logits, targets) * weight
        if share is not None:
            others = optax.softmax_cross_entropy(logits, targets[::-1]) * weight[::-1]
            losses = share * losses + (1 - share) * others
        return losses

    def _flag_trained(self, first_segment: jax.Array) -> Flags:
        """Returns for each segment whether it trains; False if that is known at compile time."""
        flags = tuple(i >= first_segment for i in range(self._program_segment, len(self._names)))
        # A comparison with another number in each kernel would keep equal segments from sharing their kernels.
        return (False,) * self._program_segment + materialise(flags)

    def _update_average(self, state: TrainState, params: Tree, batch_stats: Tree) -> Tree | None:
        """Returns the moving averages after a step that led to these weights; None where they are off."""
        if state.average is None:
            return None
        moving = self._names[self._program_segment :]
        now = {
            "params": _select(params, moving),
            "batch_stats": state.stats_layout.flatten(_select(batch_stats, moving)),
        }
        decay = jnp.minimum(self._settings.average_decay, (1 + state.step) / (10 + state.step))
        return {
            kind: old | optax.incremental_update(now[kind], _select(old, moving), 1 - decay)
            for kind, old in state.average.items()
        }


def resolve_dtype(name: str) -> jnp.dtype:
    """Resolves `float32`, `bfloat16`, `float64`, or `auto`: bfloat16 where the hardware multiplies it faster."""
    if name == "auto":
        name = "float32" if jax.default_backend() == "cpu" else "bfloat16"
    if name not in ("float32", "bfloat16", "float64"):
        raise UsageError(f"config.train.dtype is {name!r}: use auto, float32, bfloat16 or float64")
    if name == "float64" and not jax.config.read("jax_enable_x64"):
        raise UsageError("config.train.dtype is 'float64', which needs the environment variable JAX_ENABLE_X64=1")
    return jnp.dtype(name)


def _draw_shares(key: jax.Array, rows: int, *, parameter: float) -> jax.Array:
    """Draws the larger share of each mixture, [rows] float32 in [0.5, 1], independent of other uses of the key."""
    share = jax.random.beta(jax.random.fold_in(key, 2**31 - 1), parameter, parameter, (rows,), jnp.float32)
    return jnp.maximum(share, 1 - share)


def _select(tree: Tree, names: Sequence[str]) -> Tree:
    """Returns those of the named segments that the tree has."""
    return {name: tree[name] for name in names if name in tree}
