"""Measures throughput: training steps, forward passes, the input pipeline, or a whole training plan.

    python -m bt_jax.benchmark --config=configs/effnet.py --mode=train --batch=16 --json=benchmarks/train.json
    BT_PEERS_PYTHON=peers/bin/python python -m bt_jax.benchmark --config=configs/effnet.py --mode=infer --peers
    python -m bt_jax.benchmark --config=configs/effnet.py:cpu --mode=stages --images=2296
    python -m bt_jax.benchmark --config=configs/effnet.py --mode=train --topology=v5e:2x4 --batch=128
    python -m bt_jax.benchmark --table=benchmarks

train   a full fine-tuning step as in training, on random images that are already on the device
infer   the forward pass of evaluation and prediction, on the same images
input   reading and preprocessing of the configured data, and transfer of batches to the device
stages  a step of every program of the training plan, and from these the duration of the plan

--topology compiles the training step ahead of time for a TPU slice, without TPU hardware (v5e:16x16 has 256 chips). It
reports whether the step fits into memory, its operations, its communication, and an upper bound on its speed. This
needs the extra `tpu`.

Every number is the median of several measurements. They alternate with measurements of the peers and of the machine's
ceilings, so a slowdown of the machine affects all of them alike. Peers (timm, Keras on TensorFlow, ONNX Runtime and
OpenVINO: the extra `peers`) run in the interpreter $BT_PEERS_PYTHON, by default this one. Peers that are not installed
are skipped. With --mode=infer on a CPU, the network is also exported to an ONNX file, which ONNX Runtime and OpenVINO
run twice: through this package, as a --model, and by themselves.
"""

import functools
import os
import pathlib
from collections.abc import Callable
from typing import Any

import ml_collections
from absl import flags
from ml_collections import config_flags

from bt_jax.common import cli, files
from bt_jax.common.errors import UsageError
from bt_jax.defaults import get_model_options

_CONFIG = config_flags.DEFINE_config_file(
    "config", None, "Configuration file, with a variant after a colon, such as configs/effnet.py:cpu."
)
_MODE = flags.DEFINE_enum("mode", None, ["train", "infer", "input", "stages"], "What to measure.")
_BATCH = flags.DEFINE_integer("batch", None, "Images per step. Default: from the configuration.", 1)
_PEERS = flags.DEFINE_bool("peers", False, "Also measure other libraries (train and infer, on a CPU or one GPU).")
_REPEATS = flags.DEFINE_integer("repeats", 10, "Number of measurements; the median is reported.", 1)
_IMAGES = flags.DEFINE_integer("images", 2296, "Training images for `stages`. Default: a fold of the MRI set.", 1)
_TOPOLOGY = flags.DEFINE_string(
    "topology", None, "TPU slice to compile for, such as v5e:2x4. --batch is then per chip."
)
_LARGEST_BATCH = flags.DEFINE_bool(
    "largest_batch", False, "With --topology: find the largest batch that fits, with up to four more compilations."
)
_JSON = flags.DEFINE_string("json", None, "File for the results.")
_TABLE = flags.DEFINE_string("table", None, "Print the results in this folder as a Markdown table, and exit.")


def main() -> None:
    """Measures, prints the result, and writes it to a file."""
    if _TABLE.value is not None:
        from bt_jax.benchmark import tables

        print(tables.format_markdown(pathlib.Path(_TABLE.value)))
        return
    if _CONFIG.value is None:
        raise UsageError("--config is missing: name a configuration, such as --config=configs/effnet.py")
    name = config_flags.get_config_filename(flags.FLAGS["config"])
    if not isinstance(_CONFIG.value, ml_collections.ConfigDict):  # ml_collections defers the error to the first use
        raise UsageError(f"--config: {name} cannot be read")
    if _MODE.value is None:
        raise UsageError("--mode is missing: use train, infer, input or stages")
    if _JSON.value:
        files.check_output(pathlib.Path(_JSON.value), flag="json")
    if _PEERS.value and _MODE.value not in ("train", "infer"):
        raise UsageError(f"--peers cannot be used with --mode={_MODE.value}: use --mode=train or --mode=infer")
    if _PEERS.value:  # on a GPU, JAX would reserve most of the memory that the peers need
        os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    if _TOPOLOGY.value is not None:
        if _MODE.value != "train" or _PEERS.value:
            raise UsageError("--topology compiles the training step: use it with --mode=train and without --peers")
        os.environ["JAX_PLATFORMS"] = "cpu"  # before JAX is imported, which would wait for a TPU
    elif _LARGEST_BATCH.value:
        raise UsageError("--largest_batch needs a TPU slice: name one with --topology")
    _report(name, _MODE.value, _prepare_measurement(_CONFIG.value, _MODE.value)())


def _prepare_measurement(config: ml_collections.ConfigDict, mode: str) -> Callable[[], dict[str, Any]]:
    """Returns the measurement of the mode, with its settings from the configuration."""
    from bt_jax.benchmark import (  # imported late: --help need not wait for JAX
        measurements,
        peer_process,
        step_throughput,
    )

    # As all commands that compute, but without the cache of compiled programs, so that compilation is measured.
    cli.save_memory()
    section = config.eval if mode == "infer" else config.train
    workload = step_throughput.Workload(
        model=config.model.name,
        options=get_model_options({**config.model}),
        size=config.preprocess.size,
        batch=_BATCH.value or section.batch_size,
        dtype=config.train.dtype,
        optimizer=config.optimizer.to_dict(),
        label_smoothing=config.loss.label_smoothing,
        average_decay=config.train.average_decay,
    )
    if mode == "stages":
        return functools.partial(
            measurements.measure_stages,
            workload,
            plan={**config.stages.to_dict(), "cached_head": config.train.cached_views > 0},
            images=_IMAGES.value,
            repeats=_REPEATS.value,
        )
    if mode == "input":
        return functools.partial(
            measurements.measure_input,
            workload,
            data=config.data.to_dict(),
            preprocess=config.preprocess.to_dict(),
            augment=config.augment.to_dict(),
            seed=config.seed,
            repeats=_REPEATS.value,
        )
    if _TOPOLOGY.value is not None:
        from bt_jax.benchmark import topology

        return functools.partial(
            topology.compile_workload, workload, topology=_TOPOLOGY.value, largest_batch=_LARGEST_BATCH.value
        )
    python = peer_process.find_peers_python() if _PEERS.value else None
    return functools.partial(
        measurements.measure_steps, workload, mode=mode, peers_python=python, repeats=_REPEATS.value
    )


def _report(config: str, mode: str, measured: dict[str, Any]) -> None:
    from bt_jax.benchmark import measurements, tables

    result = {"schema": measurements.SCHEMA, "mode": mode, "config": config, **measured}
    if _TOPOLOGY.value is not None:
        print(tables.format_topology_result(result))
    else:
        print(tables.format_result(result))
    if _JSON.value:
        files.write_json(pathlib.Path(_JSON.value), result)
        print(f"written: {_JSON.value}")


if __name__ == "__main__":
    cli.run(main)
