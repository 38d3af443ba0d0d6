"""Measures start-up and memory with a million records, and checks that the shuffle is exact and can be resumed.

    python benchmarks/million_records.py --json=benchmarks/million_records.json

Runs the start-up steps of a training run up to the first batch. The source is phantoms, which are drawn when
they are read. Then draws batches and records the memory. Then reopens the stream in the middle of an epoch and compares
the batches. Times are counted from the start of Python.
"""

import argparse
import contextlib
import hashlib
import json
import os
import pathlib
import tempfile
import time
from typing import Any

import numpy as np

from bt_jax.benchmark import machine
from bt_jax.common import files
from bt_jax.data import leakage, partition, pipeline, sources
from bt_jax.data.preprocess import Preprocessing
from bt_jax.data.sampler import Sampler
from bt_jax.workdir import run_folder

BATCH = 64


def measure_uptime() -> float:
    """Returns the seconds since this process started."""
    ticks = int(pathlib.Path("/proc/self/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[19])
    return time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")


def read_resident_mb() -> float:
    """Returns the resident memory of this process in MB."""
    return (
        int(pathlib.Path("/proc/self/statm").read_text(encoding="utf-8").split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6
    )


def hash_batch(batch: pipeline.Batch) -> str:
    """Returns the SHA-256 of all bytes of a batch."""
    return hashlib.sha256(b"".join(batch[name].tobytes() for name in sorted(batch))).hexdigest()


def main() -> None:
    """Prints each number as it is measured, and writes all of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, default=1_000_000)
    parser.add_argument("--size", type=int, default=240, help="side of the images in pixels")
    parser.add_argument("--steps", type=int, default=60, help="batches to draw in each part")
    parser.add_argument("--json", help="file to write")
    options = parser.parse_args()
    found: dict[str, Any] = {"records": options.records, "size": options.size, "batch": BATCH, "start": {}}

    def note(name: str) -> None:
        found["start"][name] = {"seconds": round(measure_uptime(), 2), "resident_mb": round(read_resident_mb())}
        print(f"{name:28} {found['start'][name]}", flush=True)

    note("imports")
    per_class = options.records // 4
    source = sources.open_phantoms(per_class=(per_class - per_class // 5, per_class // 5), seed=0)
    note("source")
    preprocessing = Preprocessing(form="head", size=options.size)
    data = partition.divide(source, preprocessing=preprocessing, folds=5, fold=0, max_unreadable=0, warn=print)
    note("split by patient")
    with tempfile.TemporaryDirectory() as folder:
        run_folder.write_split(pathlib.Path(folder), data.table.to_csv(), resuming=False)
        leakage.write(folder, (data.training, data.validation))
    note("split.csv, seen_images.npz")
    found["sha256_of_the_split"] = data.facts["sha256"]
    sampler = Sampler(records=len(data.training), batch_size=BATCH, seed=0)

    def batches(start: int) -> Any:
        stream = pipeline.load_training_batches(
            data.training.images,
            data.training.labels,
            sampler=sampler,
            views=0,
            start_step=start,
            stop_step=10**9,
            threads=os.cpu_count() or 1,
        )
        return contextlib.closing(stream)

    with batches(0) as stream:
        next(stream)
        note("first batch")
        for _ in range(options.steps // 2):
            next(stream)
        before, begin = read_resident_mb(), time.monotonic()
        for _ in range(options.steps):
            next(stream)
        found["images_per_s"] = round(options.steps * BATCH / (time.monotonic() - begin), 1)
        found["growth_mb"] = {"after_batches": options.steps, "resident": round(read_resident_mb() - before, 1)}
    print(found["growth_mb"], found["images_per_s"], "images/s", flush=True)

    middle = sampler.steps_per_epoch // 2
    with batches(middle) as stream:
        expected = [hash_batch(next(stream)) for _ in range(8)]
    begin = time.monotonic()
    with batches(middle + 5) as stream:
        first = hash_batch(next(stream))
        found["resume_s"] = round(time.monotonic() - begin, 2)
        resumed = [first, *(hash_batch(next(stream)) for _ in range(2))]
    found["resumed_in_the_middle_alike"] = resumed == expected[5:]
    counts = np.zeros(len(data.training), np.int64)
    for epoch in range(2):
        for position in range(epoch * sampler.steps_per_epoch * BATCH, (epoch + 1) * sampler.steps_per_epoch * BATCH):
            counts[sampler(position).record] += 1
        left = len(counts) - sampler.steps_per_epoch * BATCH
        assert counts.max() <= epoch + 1 and (counts < epoch + 1).sum() <= left * (epoch + 1), "a record came twice"
    found["each_record_once_an_epoch"] = True
    found |= {"images": {"training": len(data.training), "validation": len(data.validation)}, **machine.describe()}
    print(json.dumps({name: value for name, value in found.items() if name != "start"}, indent=2))
    if options.json:
        files.write_json(options.json, {"schema": 1, **found})


if __name__ == "__main__":
    main()
