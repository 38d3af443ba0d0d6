"""Describes the machine of a benchmark, and measures its peak arithmetic and memory throughput."""

import dataclasses
import os
import pathlib
import platform
import resource
import sys
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

# Large enough that arithmetic limits the matrix product and memory the copy, small enough for a laptop.
_SIDE = {"cpu": 2048}  # side of the square matrices
_OTHER_SIDE = 8192
_COPIED_BYTES = 2**28


@dataclasses.dataclass(frozen=True)
class Ceiling:
    """A task that runs at the peak throughput of a machine.

    Attributes:
      run: runs it once.
      amount: floating-point operations, or bytes read and written, of one run.
    """

    run: Callable[[], None]
    amount: float


def prepare_ceilings(dtype: jnp.dtype) -> dict[str, Ceiling]:
    """Prepares the ceilings of one device: `flops`, a large matrix product, and `bytes`, a copy of a large array.

    Both are warmed up. The array is updated in place, since freshly allocated memory is several times slower.
    """
    device = jax.devices()[0]
    side = _SIDE.get(device.platform, _OTHER_SIDE)
    matrix = jax.device_put(jnp.ones((side, side), dtype), device)
    product = jax.jit(lambda x: x @ x)
    negative = jax.jit(lambda x: -x, donate_argnums=0)
    held = {"array": jax.device_put(jnp.ones((2**14, _COPIED_BYTES // 2**16), jnp.float32), device)}

    def multiply() -> None:
        jax.block_until_ready(product(matrix))

    def copy() -> None:
        held["array"] = jax.block_until_ready(negative(held["array"]))

    for run in (multiply, copy):
        run()
    return {"flops": Ceiling(multiply, 2.0 * side**3), "bytes": Ceiling(copy, 2.0 * _COPIED_BYTES)}


def read_peak_memory() -> int:
    """Returns the peak resident memory of this process so far, in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak * (1 if sys.platform == "darwin" else 1024)


def describe() -> dict[str, Any]:
    """Returns processor, cores, system and devices."""
    return {
        "processor": _read_processor_name(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "system": f"{platform.system()} {platform.machine()}",
        "device": jax.devices()[0].device_kind,
        "devices": jax.device_count(),
    }


def _read_processor_name() -> str:
    """Returns the processor's name as the system reports it."""
    information = pathlib.Path("/proc/cpuinfo")
    if information.exists():
        for line in information.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
