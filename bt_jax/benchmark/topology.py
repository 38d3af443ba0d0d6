"""Compiles a training step ahead of time for a TPU slice, without TPU hardware: its memory and its costs.

The TPU's compiler (libtpu, the extra `tpu`) runs on any machine and compiles for a topology given by name. Nothing is
executed. Memory, operations, traffic and collectives are those that the compiler reports. The speed is a bound computed
from them.
"""

import contextlib
import dataclasses
import datetime
import functools
import importlib.metadata
import importlib.util
import math
import os
import re
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from jax.experimental import topologies
from jax.experimental.compilation_cache import compilation_cache
from jax.sharding import AxisType, Mesh

from bt_jax.benchmark import hlo, step_throughput
from bt_jax.benchmark.roofline import CHIPS, compute_roofline, estimate_scaling
from bt_jax.benchmark.step_throughput import Workload
from bt_jax.common import waiting
from bt_jax.common.errors import UsageError
from bt_jax.distributed.sharding import DATA_AXIS
from bt_jax.training.train_state import TrainState
from bt_jax.training.train_step import TrainStep

Say = Callable[[str], None]


def check_installed() -> None:
    """Raises a UsageError if the TPU's compiler is missing."""
    if importlib.util.find_spec("libtpu") is None:
        raise UsageError(
            "--topology needs libtpu, the TPU's compiler, which is not installed: "
            "python -m pip install 'jax[tpu]' libtpu"
        )


def compile_workload(workload: Workload, *, topology: str, largest_batch: bool) -> dict[str, Any]:
    """Compiles the full fine-tuning step of a workload; its batch is that of one chip.

    The dtype `auto` is bfloat16, as on a TPU. Weights and normalisation do not change the cost of a step.
    """
    if workload.dtype == "auto":
        workload = dataclasses.replace(workload, dtype="bfloat16")
    step, state = step_throughput.make_training_step(workload)
    found = compile_for_topology(
        step,
        state,
        topology=topology,
        batch_per_chip=workload.batch,
        size=workload.size,
        largest_batch=largest_batch,
        say=functools.partial(print, flush=True),
    )
    return {
        "model": workload.model,
        "size": workload.size,
        "batch_statistics": workload.batch_statistics,
        "dtype": workload.dtype,
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "images_per_s": None,  # nothing was executed
        "peers": {},
        **found,
    }


def compile_for_topology(
    step: TrainStep,
    state: TrainState,
    *,
    topology: str,
    batch_per_chip: int,
    size: int,
    largest_batch: bool = False,
    say: Say = print,
) -> dict[str, Any]:
    """Compiles a training step for a topology and reports its costs.

    Set `JAX_PLATFORMS=cpu`: JAX needs no accelerator here, and would otherwise wait for one.

    Args:
      step: computing in bfloat16; its mesh does not matter.
      state: shapes and dtypes of the state; arrays are accepted and not read.
      topology: kind and layout of the slice, such as `v5e:2x4` or `v5p:2x2x2`.
      batch_per_chip: images per step on each chip.
      size: side of the images in pixels.
      largest_batch: find the largest batch that fits, with up to four more compilations.
      say: called with one line of progress.

    Returns:
      The fields of the JSON report. Memory, `flops_per_step` and `bytes_per_step` are those of one chip. Fields that
      depend on the chip are None if `roofline.CHIPS` lacks its kind.

    Raises:
      UsageError: libtpu is missing, the topology does not exist, or the batch does not fit or cannot be divided.
    """
    devices = list_devices(topology)
    chips = len({tuple(device.coords) for device in devices})
    cores = len(devices) // chips  # devices per chip: 2 if the compiler counts its cores separately
    if batch_per_chip < 1 or batch_per_chip % cores:
        raise UsageError(f"{batch_per_chip} images per chip: use a positive multiple of the chip's {cores} cores")
    kind = devices[0].device_kind
    chip = CHIPS.get(kind)
    say(f"{topology}: {chips} chips of kind {kind}; compiling (minutes for a large network)")

    def measure(per_chip: int) -> "CompiledCosts | None":
        return _compile_step(step, state, devices, cores=cores, batch=per_chip * chips, size=size)

    measured = measure(batch_per_chip)
    if measured is None:
        raise UsageError(
            f"a step with {batch_per_chip} images per chip does not fit into the memory of {topology}: "
            "use a smaller batch"
        )
    bound = chip and compute_roofline(
        chip,
        flops=measured.flops,
        bytes_accessed=measured.bytes,
        main_memory_bytes=measured.main_memory_bytes,
        images=batch_per_chip,
    )
    reduced = measured.collectives["all-reduce"]["bytes"]
    result = {
        "topology": topology,
        "kind": kind,
        "chips": chips,
        "devices_per_chip": cores,
        "batch": batch_per_chip * chips,
        "batch_per_chip": batch_per_chip,
        "compile_s": round(measured.compile_s, 1),
        "memory_per_chip": {
            **measured.memory,
            "needed": measured.needed,
            "usable": chip and chip.usable,
            "published": chip and chip.memory,
        },
        "flops_per_step": measured.flops,
        "bytes_per_step": measured.bytes,
        "main_memory_bytes_per_step": measured.main_memory_bytes,
        "flops_per_image": measured.flops / batch_per_chip,
        "bytes_per_image": measured.bytes / batch_per_chip,
        "collectives": measured.collectives,
        "roofline": bound,
        "scaling": estimate_scaling(chip, bound=bound, reduced_bytes=reduced, images=batch_per_chip)
        if chip and bound and chips > 1
        else None,
        "largest_batch_per_chip": None,
        "versions": {name: importlib.metadata.version(name) for name in ("jax", "libtpu")},
    }
    if chip:
        result["largest_batch_per_chip"] = (
            _find_largest_batch(measure, measured, batch_per_chip, usable=chip.usable, say=say)
            if largest_batch
            else {
                "extrapolated": extrapolate_batch(measured, batch_per_chip, usable=chip.usable),
                "compiled": None,
                "needed": None,
            }
        )
    return result


def list_devices(topology: str) -> list[Any]:
    """Lists the devices of a topology; they can be compiled for, and execute nothing.

    Raises:
      UsageError: libtpu is missing, or does not know the topology.
    """
    check_installed()
    for name, value in {
        "TPU_SKIP_MDS_QUERY": "1",  # otherwise libtpu waits for a cloud's metadata server
        "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # no chip is used, so several processes do not interfere
        # Any valid values: without them libtpu complains on stderr that it finds no TPU.
        "TPU_ACCELERATOR_TYPE": "v5litepod-8",
        "TPU_WORKER_HOSTNAMES": "localhost",
        "TPU_WORKER_ID": "0",
    }.items():
        os.environ.setdefault(name, value)
    advice = "use a kind and a layout of chips, such as v5e:2x4, v5e:16x16, v6e:4x4 or v5p:2x2x2"
    if not re.fullmatch(r"\w+:[1-9]\d*(x[1-9]\d*){1,2}", topology):  # libtpu has a default for the empty name
        raise UsageError(f"--topology is {topology!r}: {advice}")
    layout = [int(length) for length in topology.partition(":")[2].split("x")]
    # By default a host has 2x2 chips, and a slice of one or two chips is not divisible by that.
    options = {"chips_per_host_bounds": [*layout, 1][:3]} if math.prod(layout) < 4 else {}
    try:
        return list(topologies.get_topology_desc(platform="tpu", topology_name=topology, **options).devices)
    except jax.errors.JaxRuntimeError as error:
        raise UsageError(f"--topology is {topology!r}: {advice} ({' '.join(str(error).split())})") from error


@dataclasses.dataclass(frozen=True)
class CompiledCosts:
    """The costs of one step as the compiler reports them, per chip.

    Attributes:
      compile_s: seconds to compile.
      memory: bytes of `arguments`, `outputs`, `aliased` (outputs in the memory of arguments), `temporaries` and
        `program`.
      flops: operations of a step.
      bytes: read and written by a step, in the main memory or in on-chip memory.
      main_memory_bytes: see `hlo.count_main_memory_bytes`.
      collectives: see `hlo.count_collectives`; of one device.
    """

    compile_s: float
    memory: dict[str, int]
    flops: float
    bytes: float
    main_memory_bytes: float
    collectives: dict[str, dict[str, int]]

    @property
    def needed(self) -> int:
        """The total bytes of memory."""
        return sum(self.memory.values()) - 2 * self.memory["aliased"]


def _compile_step(
    step: TrainStep, state: TrainState, devices: list[Any], *, cores: int, batch: int, size: int
) -> CompiledCosts | None:
    """Compiles a step; returns None if it does not fit into the memory."""
    mesh = Mesh(np.array(devices), (DATA_AXIS,), axis_types=(AxisType.Auto,))
    images = {
        "image": jax.ShapeDtypeStruct((batch, size, size), np.uint8),
        "label": jax.ShapeDtypeStruct((batch,), np.int32),
    }
    lowered = dataclasses.replace(step, mesh=mesh).lower(0, state, images)
    start = time.perf_counter()
    try:
        with _disable_cache(), waiting.report(f"compiling a step of {batch} images"):
            compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" in str(error):
            return None
        raise
    seconds = time.perf_counter() - start
    memory, cost, text = compiled.memory_analysis(), compiled.cost_analysis(), compiled.as_text()
    return CompiledCosts(
        compile_s=seconds,
        memory={
            "arguments": cores * memory.argument_size_in_bytes,
            "outputs": cores * memory.output_size_in_bytes,
            "aliased": cores * memory.alias_size_in_bytes,
            "temporaries": cores * memory.temp_size_in_bytes,
            "program": cores * memory.generated_code_size_in_bytes,
        },
        flops=cores * cost["flops"],
        bytes=cores * cost["bytes accessed"],
        main_memory_bytes=cores * hlo.count_main_memory_bytes(text),
        collectives=hlo.count_collectives(text),
    )


@contextlib.contextmanager
def _disable_cache() -> Iterator[None]:
    """Disables the cache of compiled programs, which could write such a program, but not read it without a device."""
    before = jax.config.values["jax_enable_compilation_cache"]
    jax.config.update("jax_enable_compilation_cache", False)
    compilation_cache.reset_cache()  # JAX decides only once whether to use the cache
    try:
        yield
    finally:
        jax.config.update("jax_enable_compilation_cache", before)
        compilation_cache.reset_cache()


def extrapolate_batch(
    measured: CompiledCosts, images: int, *, usable: float, other: tuple[CompiledCosts, int] | None = None
) -> int | None:
    """Extrapolates the largest number of images per chip. Memory is assumed to grow linearly; None if it does not grow.

    Args:
      measured: costs at `images` per chip.
      images: per chip.
      usable: usable bytes of a chip's memory.
      other: other costs and their images. Without them, the temporaries are assumed proportional to the images.
    """
    if other is None:
        per_image = measured.memory["temporaries"] / images
    else:
        per_image = (measured.needed - other[0].needed) / (images - other[1])
    if per_image <= 0:
        return None
    return max(0, math.floor(images + (usable - measured.needed) / per_image))


def _find_largest_batch(
    measure: Callable[[int], CompiledCosts | None], measured: CompiledCosts, images: int, *, usable: float, say: Say
) -> dict[str, Any]:
    """Finds the largest batch that fits: extrapolates from two programs, and compiles at the result or below it.

    The second program has twice the images. Half of them would underestimate the growth: EfficientNet-B1 on v5e has
    2.53 GB of temporaries at 64 images and 3.56 GB at 128.
    """
    known, most = measured, images
    extrapolated = extrapolate_batch(measured, images, usable=usable)
    if double := measure(2 * images):
        known, most = double, 2 * images
        extrapolated = extrapolate_batch(double, most, usable=usable, other=(measured, images))
    say(f"extrapolated: {extrapolated} images per chip; compiling to check")
    candidate = (extrapolated or 0) // 8 * 8  # full tiles of the TPU's memory
    for _ in range(3):
        if candidate <= most:
            break
        if fits := measure(candidate):
            known, most = fits, candidate
            break
        candidate = int(candidate * 0.94) // 8 * 8
    return {"extrapolated": extrapolated, "compiled": most, "needed": known.needed}
