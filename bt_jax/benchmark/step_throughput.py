"""Compiles the training steps and forward passes that the benchmark measures, on random images."""

import dataclasses
import functools
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from bt_jax.common import waiting
from bt_jax.common.errors import UsageError
from bt_jax.distributed import sharding
from bt_jax.inference.forward import make_forward, prefers_pairs
from bt_jax.models import registry
from bt_jax.models.normalise import LITE
from bt_jax.models.registry import Network, Tree
from bt_jax.training import optimizer, train_state, train_step
from bt_jax.training.train_state import TrainState
from bt_jax.training.train_step import TrainStep

CLASSES = 4


@dataclasses.dataclass(frozen=True, kw_only=True)
class Workload:
    """What is measured. Weights and images are random, which changes neither time nor memory.

    Attributes:
      model: name in the registry.
      options: of the model's constructor.
      size: side of the images in pixels; 0 is the model's own.
      batch: images per step, over all devices.
      dtype: of the computation, see `train_step.resolve_dtype`.
      optimizer: arguments of `optimizer.make_optimizer`.
      label_smoothing: of the loss.
      average_decay: of the moving average of the weights; 0 is off.
    """

    model: str
    options: Mapping[str, Any]
    size: int
    batch: int
    dtype: str
    optimizer: Mapping[str, Any]
    label_smoothing: float
    average_decay: float

    def __post_init__(self) -> None:
        if self.batch % jax.device_count():
            raise UsageError(f"--batch is {self.batch}: use a multiple of the {jax.device_count()} devices")
        object.__setattr__(self, "size", self.size or registry.get_native_size(self.model))

    @property
    def batch_statistics(self) -> bool:
        """Whether BatchNorm uses the statistics of the batch in training, which is the default of the models."""
        return bool(self.options.get("batch_statistics", True))

    def create_network(self) -> tuple[Network, Tree, Tree]:
        """Creates the network with random parameters and statistics."""
        return registry.create(self.model, classes=CLASSES, size=self.size, **self.options)

    def make_images(self) -> np.ndarray:
        """Makes random images [B, S, S] uint8."""
        return np.random.default_rng(0).integers(0, 256, (self.batch, self.size, self.size), np.uint8)


@dataclasses.dataclass(frozen=True)
class CompiledProgram:
    """A compiled program with its inputs on the device.

    Attributes:
      run: queues it once on the device.
      wait: waits until the device has run all that is queued.
      compile_s: seconds to trace, lower and compile.
      flops: of one run over all devices, as the compiler counts them.
      bytes_accessed: by all operations of one run over all devices, as the compiler counts them. Cache hits count
        too, so they can exceed the throughput of the memory. None where it runs by pairs, which cannot be counted.
      memory_bytes: memory of the program on one device: inputs, outputs and temporaries.
    """

    run: Callable[[], None]
    wait: Callable[[], Any]
    compile_s: float
    flops: float | None
    bytes_accessed: float | None
    memory_bytes: int | None


def compile_forward(workload: Workload) -> CompiledProgram:
    """Compiles the forward pass of evaluation and prediction, on one device."""
    network, params, batch_stats = workload.create_network()
    dtype = train_step.resolve_dtype(workload.dtype)
    make = functools.partial(make_forward, network, normalisation=LITE, dtype=dtype)
    by_pairs = prefers_pairs(jax.devices()[:1])
    inputs = jax.device_put((params, batch_stats, workload.make_images()), jax.devices()[0])
    compiled, seconds = _compile(make(by_pairs=by_pairs), *inputs)
    counted = jax.jit(make()).lower(*inputs) if by_pairs else None
    held: dict[str, Any] = {}

    def run() -> None:
        held["outputs"] = compiled(*inputs)

    return _make_program(run, held, compiled, seconds, devices=1, counted=counted)


def make_training_step(workload: Workload) -> tuple[TrainStep, TrainState]:
    """Returns the training step on all devices, without augmentation, and a state for it."""
    network, params, batch_stats = workload.create_network()
    transform = optimizer.make_optimizer(network.segment_names, **workload.optimizer)
    step = TrainStep(
        network=network,
        optimizer=transform,
        mesh=sharding.make_mesh(),
        normalisation=LITE,
        label_smoothing=workload.label_smoothing,
        average_decay=workload.average_decay,
        dtype=train_step.resolve_dtype(workload.dtype),
        by_pairs=prefers_pairs(jax.devices()),
    )
    return step, train_state.create_state(params, batch_stats, transform, averaging=workload.average_decay > 0)


def compile_training_steps(workload: Workload, program_segments: Sequence[int]) -> dict[int, CompiledProgram]:
    """The training steps that can train from each of these segments up, training all of that.

    They pass one state around, so that any number of them fits into memory; segment 0 is full fine-tuning.
    """
    step, state = make_training_step(workload)
    mesh = step.mesh
    held: dict[str, Any] = {"state": jax.device_put(state, sharding.get_replicated_sharding(mesh))}
    labels = np.arange(workload.batch, dtype=np.int32) % CLASSES
    batch = jax.device_put({"image": workload.make_images(), "label": labels}, sharding.get_batch_sharding(mesh))
    rate, seed = np.float32(1e-4), np.int32(0)

    def run(compiled: Callable[..., Any], segment: np.int32) -> None:
        held["state"], held["metrics"] = compiled(held["state"], batch, rate, segment, seed)

    programs = {}
    for segment in program_segments:
        compiled, seconds = _compile(step.jit(segment), held["state"], batch, rate, np.int32(segment), seed)
        one = functools.partial(run, compiled, np.int32(segment))
        counted = None
        if segment and step.by_pairs:
            whole = dataclasses.replace(step, by_pairs=False).jit(segment)
            counted = whole.lower(held["state"], batch, rate, np.int32(segment), seed)
        programs[segment] = _make_program(one, held, compiled, seconds, devices=mesh.size, counted=counted)
    return programs


def _compile(function: Any, *arguments: Any) -> tuple[Any, float]:
    begin = time.perf_counter()
    with waiting.report("compiling"):
        compiled = function.lower(*arguments).compile()
    return compiled, time.perf_counter() - begin


def _make_program(
    run: Callable[[], None],
    held: Mapping[str, Any],
    compiled: Any,
    seconds: float,
    *,
    devices: int,
    counted: Any = None,
) -> CompiledProgram:
    """Describes a program whose outputs are in `held` after each run.

    The compiler counts the loop over pairs of images once. `counted` is the same program without that loop, lowered:
    its operations are those of the compiled one, but not the bytes, which depend on what is fused.
    """
    cost = compiled.cost_analysis() or {}  # of the part of one device
    if counted is not None:
        cost = {"flops": counted.cost_analysis()["flops"]}
    memory = compiled.memory_analysis()
    return CompiledProgram(
        run=run,
        wait=functools.partial(jax.block_until_ready, held),
        compile_s=seconds,
        flops=cost["flops"] * devices if "flops" in cost else None,
        bytes_accessed=cost["bytes accessed"] * devices if "bytes accessed" in cost else None,
        memory_bytes=memory
        and memory.argument_size_in_bytes
        + memory.output_size_in_bytes
        - memory.alias_size_in_bytes
        + memory.temp_size_in_bytes,
    )
