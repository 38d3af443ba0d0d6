"""What kinds of TPU chips can do at their best, and what that makes of a step."""

import dataclasses
from collections.abc import Mapping
from typing import Any


@dataclasses.dataclass(frozen=True)
class Chip:
    """What one chip can do.

    Attributes:
      name: as in the names of topologies.
      flops_per_s: peak of bfloat16 products.
      bytes_per_s: peak of the main memory (HBM).
      interconnect: bytes a second that it sends to its neighbours over all links together.
      memory: bytes of main memory as published, whose GB are GiB.
      usable: bytes that libtpu 0.0.42 leaves a program: where its "exceeds available HBM" begins.
    """

    name: str
    flops_per_s: float
    bytes_per_s: float
    interconnect: float
    memory: int
    usable: float


# By JAX's `device_kind`. Published at https://cloud.google.com/tpu/docs/v4, /v5e, /v5p and /v6e (of v6e's bandwidth the
# page has said 1640 GB/s, now 1600, and of its interconnect 3584 Gbit/s, now 3200); `usable` as the compiler states it.
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
    """What a chip's peaks make of a step (Williams, Waterman and Patterson, 2009, doi:10.1145/1498765.1498785).

    The compiler counts what stays in on-chip memory as bytes accessed too. Read as traffic of the main memory, its
    count makes the step look slower than it need be; `images_per_s_per_chip_main_memory` takes the count of
    `hlo.main_memory_bytes`, and is the limit. Communication between chips and waiting are left out of both.

    Args:
      chip: of the table.
      flops: of the step on one chip.
      bytes_accessed: by the step on one chip, as the compiler counts them.
      main_memory_bytes: of them, those in the main memory.
      images: of the step on one chip.
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
    """What `compute_roofline` makes of a step on more and more chips, each with the same number of images.

    A chip's own work stays as it is. The all-reduce of B bytes sends 2 B (n - 1) / n from each of n chips (Patarasuk
    and Yuan, 2009, doi:10.1016/j.jpdc.2008.09.002), over half of its links, as along one axis of the torus at a time,
    and nothing is computed meanwhile: the compiler may do better. Its latency, and feeding the chips, are left out.

    Args:
      chip: of the table.
      bound: what `compute_roofline` returned.
      reduced_bytes: of all all-reduces of a step.
      images: of the step on one chip.

    Returns:
      For each of `COUNTS`: `chips`, `sent_bytes` by each chip, `all_reduce_s`, `images_per_s` of all chips by the
      traffic of the main memory, and its share of as many single chips' (`efficiency`); both also with all bytes
      accessed for that traffic, as `..._accessed`.
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
