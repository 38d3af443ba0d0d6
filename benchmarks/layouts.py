"""Trains the same steps on several numbers of devices and processes, with the real command, and compares the losses.

    python benchmarks/layouts.py --json=benchmarks/layouts.json
    python benchmarks/layouts.py --config=configs/effnet.py --devices=8 --processes=2 --size=240

Trains the whole EfficientNet-Lite1, or another configuration's model, on phantoms, with dropout, stochastic depth,
augmentation, gradient clipping and batch statistics in BatchNorm. Devices are simulated in one process. Processes have
one device each, and find each other as hosts do. Sums in another order round differently. In float32 such a difference
grows tenfold in a step or two, so only the first losses can be compared. The network therefore computes in float64 as
well; parameters, gradients and logits stay float32. Differences are relative to the loss on one device. A repetition of
that run must show no difference.
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time
from typing import Any

import numpy as np

from bt_jax.benchmark import machine
from bt_jax.common import files

ROOT = pathlib.Path(__file__).parent.parent
FIELDS = {
    "data.source": "phantoms",
    "data.phantoms_per_class": "(20,4)",
    "augment.rotation": "0.2",
    "augment.gamma": "0.3",
    "augment.noise": "0.03",
    "augment.blur": "1.0",
    "model.batch_statistics": "True",
    "stages.count": "1",
    "stages.head_epochs": "0.0",
    "stages.learning_rate": "3e-5",
    "stages.lowest_segment": "",
    "train.batch_size": "16",
    "train.cached_segment": "",
    "train.cached_views": "0",
    "train.log_every": "1",
    "eval.batch_size": "16",
    "eval.every_epochs": "100.0",
}
BATCHES_OF_AN_EPOCH = 4
# The largest difference of the first loss, and of any.
TOLERANCES = {"float64": (1e-7, 1e-5), "float32": (1e-4, 0.1)}


def train(
    workdir: pathlib.Path, config: str, *flags: str, steps: int, dtype: str, devices: int = 1, processes: int = 1
) -> list[float]:
    """Returns the loss of every step of a run on several devices of one process, or on several processes."""
    fields = [f"--config.{name}={value}" for name, value in FIELDS.items()]
    fields += [f"--config.stages.epochs={steps / BATCHES_OF_AN_EPOCH}", f"--config.train.dtype={dtype}"]
    several = ["bt_jax.launch.multihost", str(processes)] if processes > 1 else ["bt_jax.main"]
    done = subprocess.run(
        [sys.executable, "-m", *several, f"--config={config}", f"--workdir={workdir}", *fields, *flags],
        cwd=ROOT, capture_output=True, encoding="utf-8",
        env={**os.environ, "JAX_NUM_CPU_DEVICES": str(devices), "JAX_ENABLE_X64": str(int(dtype == "float64"))},
    )  # fmt: skip
    if done.returncode:
        sys.exit(f"{devices} devices, {processes} processes: {done.stdout[-1000:]}\n{done.stderr[-3000:]}")
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    found = [row["train/loss"] for row in rows if "train/loss" in row]
    if len(found) != steps:
        sys.exit(f"{devices} devices, {processes} processes: {len(found)} losses of {steps} steps")
    return found


def main() -> int:
    """Trains, prints and writes the differences; returns 1 if one exceeds its tolerance."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="configs/effnet.py:demo")
    parser.add_argument("--model", default="", help="another model, with random weights")
    parser.add_argument("--size", type=int, default=96, help="side of the images in pixels")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--devices", default="2,4,8", help="numbers of devices of one process")
    parser.add_argument("--processes", default="2,4")
    parser.add_argument("--dtypes", default=",".join(TOLERANCES))
    parser.add_argument("--once", action="store_true", help="skip the repetition of the run on one device")
    parser.add_argument("--json", type=pathlib.Path, help="file to write")
    options = parser.parse_args()
    flags = [f"--config.preprocess.size={options.size}"]
    if options.model:
        flags += [f"--config.model.name={options.model}", "--config.model.weights=none"]
    layouts: dict[str, dict[str, int]] = {"1 device": {}}
    if not options.once:
        layouts["1 device again"] = {}
    for kind, numbers in (("devices", options.devices), ("processes", options.processes)):
        layouts |= {f"{number} {kind}": {kind: int(number)} for number in filter(None, numbers.split(","))}
    found: dict[str, Any] = {"config": options.config, "size": options.size, "steps": options.steps}
    good = True
    for dtype in options.dtypes.split(","):
        first, any_step = TOLERANCES[dtype]
        results = found[dtype] = {"tolerance_of_the_first": first, "tolerance": any_step}
        for name, layout in layouts.items():
            begin = time.monotonic()
            with tempfile.TemporaryDirectory(prefix="layouts_") as folder:
                workdir = pathlib.Path(folder) / "run"
                trained = train(workdir, options.config, *flags, steps=options.steps, dtype=dtype, **layout)
            differences = np.abs(np.divide(trained, results.get("1 device", {}).get("losses", trained)) - 1)
            results[name] = {"losses": trained, "differences": differences.tolist()}
            repeated = name.startswith("1 ")
            good &= bool(differences[0] <= first * (not repeated) and differences.max() <= any_step * (not repeated))
            what = f"differences: {differences[0]:.1e} in the first step, {differences.max():.1e} at most"
            print(f"{dtype}, {name}: {time.monotonic() - begin:.0f} s; {what}", flush=True)
    if options.json:
        files.write_json(options.json, {"schema": 1, **found, "within_tolerance": good, **machine.describe()})
    print("within the tolerance" if good else "not within the tolerance")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
