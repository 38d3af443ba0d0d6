"""The peak performance of TPU chips, and the bound that it puts on the speed of a training step."""

import dataclasses
from collections.abc import Mapping
from typing import Any


@dataclasses.dataclass(frozen=True)
class Chip:
    """The peak performance of one chip.

    Attributes:
      name: as in the name of a topology.
      flops_per_s: peak of bfloat16 matrix products.
      bytes_per_s: peak bandwidth of the main memory (HBM).
      interconnect: bytes per second that it sends to its neighbours over all links together.
      memory: bytes of main memory as published, with GB read as GiB.
      usable: bytes available to a program in libtpu 0.0.42; above it, the error is "exceeds available HBM".
    """

    name: str
    flops_per_s: float
    bytes_per_s: float
    interconnect: float
    memory: int
    usable: float


# By JAX's `device_kind`. Published at https://cloud.google.com/tpu/docs/v4, /v5e, /v5p and /v6e. For v6e the page first
# gave a bandwidth of 1640 GB/s, now 1600, and an interconnect of 3584 Gbit/s, now 3200. `usable` is what the compiler
# reports.
CHIPS = {
    "TPU v4": Chip(
        "v4", 275e12, 1228e9, 300e9, 32 * 2**30, 2 * 15.25 * 2**30
    ),  # two cores, each with half of the memory
    "TPU v5 lite": Chip("v5e", 197e12, 819e9, 200e9, 16 * 2**30, 15.75 * 2**30),
    "TPU v5": Chip("v5p", 459e12, 2765e9, 600e9, 95 * 2**30, 95.74 * 2**30),
    "TPU v6 lite": Chip("v6e", 918e12, 1640e9, 400e9, 32 * 2**30, 31.25 * 2**30),
}


def compute_roofline(
    chip: Chip, *, flops: float, bytes_accessed: float, main_memory_bytes: float, images: int
) -> dict[str, Any]:
    """Computes the roofline bound of a step (Williams, Waterman and Patterson, 2009, doi:10.1145/1498765.1498785).

    The compiler's bytes accessed include those that stay in on-chip memory. Taken as traffic to the main memory, they
    underestimate the speed (`images_per_s_per_chip`). `images_per_s_per_chip_main_memory` uses the count of
    `hlo.count_main_memory_bytes` and is the actual bound. Neither includes communication between chips or waiting.

    Args:
      chip: from the table.
      flops: operations of the step on one chip.
      bytes_accessed: of the step on one chip, as the compiler counts them.
      main_memory_bytes: the part of them in the main memory.
      images: images of the step on one chip.
    """
    arithmetic = flops / chip.flops_per_s
    accessed, memory = bytes_accessed / chip.bytes_per_s, main_memory_bytes / chip.bytes_per_s
    return {
        "images_per_s_per_chip": images / max(arithmetic, accessed),
        "images_per_s_per_chip_main_memory": images / max(arithmetic, memory),
        "bound_by": "memory" if memory > arithmetic else "arithmetic",
        "arithmetic_s": arithmetic,
        "bytes_accessed_s": accessed,
        "main_memory_s": memory,
        "peak_flops_per_s": chip.flops_per_s,
        "peak_bytes_per_s": chip.bytes_per_s,
    }


COUNTS = (1, 4, 16, 64, 256)  # chips


def estimate_scaling(
    chip: Chip, *, bound: Mapping[str, Any], reduced_bytes: float, images: int
) -> list[dict[str, Any]]:
    """Extends the bound of `compute_roofline` to more chips, each with the same number of images.

    The work of each chip stays the same. The all-reduce of B bytes sends 2 B (n - 1) / n from each of n chips
    (Patarasuk and Yuan, 2009, doi:10.1016/j.jpdc.2008.09.002). It is assumed to use half of the links, as along one
    axis of the torus at a time, and not to overlap with computation; the compiler may do better. Latency and the input
    of images are not included.

    Args:
      chip: from the table.
      bound: result of `compute_roofline`.
      reduced_bytes: of all all-reduces of a step.
      images: images of the step on one chip.

    Returns:
      For each of `COUNTS`: `chips`, `sent_bytes` per chip, `all_reduce_s`, `images_per_s` of all chips from the
      traffic to the main memory, and `efficiency`, its ratio to as many single chips. Fields with the suffix
      `_accessed` use all bytes accessed instead of that traffic.
    """
    rows = []
    for chips in COUNTS:
        sent = 2 * reduced_bytes * (chips - 1) / chips
        reduce_s = sent / (chip.interconnect / 2)
        row: dict[str, Any] = {"chips": chips, "sent_bytes": sent, "all_reduce_s": reduce_s}
        for end, memory in (("", "main_memory_s"), ("_accessed", "bytes_accessed_s")):
            alone = max(bound["arithmetic_s"], bound[memory])
            row[f"images_per_s{end}"] = chips * images / (alone + reduce_s)
            row[f"efficiency{end}"] = alone / (alone + reduce_s)
        rows.append(row)
    return rows
