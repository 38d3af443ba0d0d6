"""Describes the machine of a benchmark, and measures its peak arithmetic and memory throughput."""

import dataclasses
import os
import pathlib
import platform
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from bt_jax.benchmark.peers import turns

# Large enough that arithmetic limits the matrix product and memory the copy, small enough for a laptop.
_SIDE = {"cpu": 2048}  # side of the square matrices
_OTHER_SIDE = 8192
_COPIED_BYTES = {"cpu": 2**28}
_OTHER_COPIED_BYTES = 2**31


@dataclasses.dataclass(frozen=True)
class Ceiling:
    """A task that runs at the peak throughput of a machine.

    Attributes:
      run: queues it once on the device.
      wait: waits until the device has run all that is queued.
      amount: floating-point operations, or bytes read and written, of one run.
    """

    run: Callable[[], None]
    wait: Callable[[], None]
    amount: float


def prepare_ceilings(dtype: jnp.dtype) -> dict[str, Ceiling]:
    """Prepares the ceilings of one device: `flops`, a large matrix product, and `bytes`, a copy of a large array.

    Both are warmed up. The array is updated in place, since freshly allocated memory is several times slower. The
    matrix is random: a GPU multiplies zeros faster, since it then needs less power.
    """
    device = jax.devices()[0]
    side = _SIDE.get(device.platform, _OTHER_SIDE)
    copied = _COPIED_BYTES.get(device.platform, _OTHER_COPIED_BYTES)
    with jax.default_device(device):
        matrix = jax.random.normal(jax.random.key(0), (side, side), dtype)
        held = {"array": jnp.arange(copied // 4, dtype=jnp.float32).reshape(2**14, -1)}
    product = jax.jit(lambda x: x @ x)
    negative = jax.jit(lambda x: -x, donate_argnums=0)

    def multiply() -> None:
        held["product"] = product(matrix)

    def copy() -> None:
        held["array"] = negative(held["array"])

    def wait() -> None:
        jax.block_until_ready(held)

    for run in (multiply, copy):
        run()
    wait()
    return {"flops": Ceiling(multiply, wait, 2.0 * side**3), "bytes": Ceiling(copy, wait, 2.0 * copied)}


def read_peak_memory() -> int:
    """Returns the peak memory so far in bytes: of the first device if it has its own, else of this process."""
    if statistics := jax.devices()[0].memory_stats():
        return int(statistics["peak_bytes_in_use"])
    return turns.read_peak_memory()


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
        for line in information.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
