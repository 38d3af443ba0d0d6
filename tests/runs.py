"""Small runs for tests of the commands: the demo's stages on a few phantoms of 32x32 pixels, with tiny networks."""

import functools
import importlib.util
import json
import os
import pathlib
import re
import subprocess
import sys
import types
import warnings
from collections.abc import Sequence
from typing import Any

import jax
import ml_collections
import numpy as np
from orbax.checkpoint import v1 as ocp

from bt_jax.training import loop, setup
from bt_jax.workdir import checkpoint, run_folder
from bt_jax.workdir.metric_log import read_metrics
from tests import command_server

ROOT = pathlib.Path(__file__).parent.parent

# Ten steps an epoch, four stages of one epoch, two programs; evaluations and checkpoints in and between epochs.
FIELDS: dict[str, Any] = {
    "model.name": "efficientnet_nano",
    "model.weights": "none",
    "model.hidden": (8,),
    "model.batch_statistics": True,
    "data.phantoms_per_class": (25, 4),
    "preprocess.size": 32,
    "stages.count": 4,
    "stages.head_epochs": 1.0,
    "stages.epochs": 1.0,
    "stages.lowest_segment": "block_07",  # deeper programs take much longer to compile
    "train.batch_size": 8,
    "train.cached_segment": "",
    "train.log_every": 3,
    "eval.batch_size": 8,
    "eval.every_epochs": 0.7,
    "eval.examples": 0,
    "checkpoint.every_steps": 8,
    "early_stopping.patience": 3,
}
STEPS = 40

# The same for configs/cnn.py: compiled in a moment, and few arrays in each checkpoint. It has no BatchNorm.
SMALL_FIELDS: dict[str, Any] = {name: value for name, value in FIELDS.items() if not name.startswith("model.")} | {
    "model.filters": (4, 8),
    "model.hidden": (8,),
    "model.dropout": 0.1,
    "data.folds": 5,
    "stages.head_learning_rate": 1e-2,
    "stages.learning_rate": 1e-3,
    "stages.final_learning_rate": 1e-3,
    "stages.lowest_segment": "conv_1",
    "stages.programs": 2,
    "train.average_decay": 0.9,
    "train.batch_size": 8,
}


def list_configurations() -> list[str]:
    """The names of the files in `configs/`."""
    return sorted(path.stem for path in (ROOT / "configs").glob("*.py"))


@functools.cache
def load_configuration(name: str) -> types.ModuleType:
    """The module of a file in `configs/`."""
    spec = importlib.util.spec_from_file_location(f"config_{name}", ROOT / "configs" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def config(**changes: Any) -> ml_collections.ConfigDict:
    """The configuration of a small run; changed fields are given with `__` for the dot."""
    made = load_configuration("effnet").get_config("demo")
    made.update_from_flattened_dict(FIELDS | {name.replace("__", "."): value for name, value in changes.items()})
    return made


def small_config(**changes: Any) -> ml_collections.ConfigDict:
    """As `config`, of a run of `SMALL_FIELDS`."""
    made = load_configuration("cnn").get_config("demo")
    made.update_from_flattened_dict(SMALL_FIELDS | {name.replace("__", "."): value for name, value in changes.items()})
    return made


def fit(config: ml_collections.ConfigDict, folder: pathlib.Path) -> int:
    """Trains as the command does, without the report, and returns the exit status."""
    with run_folder.open_run(folder) as run:
        return loop.fit(setup.prepare(config, run), run).status


def command(workdir: pathlib.Path, *flags: str) -> list[str]:
    """The command line of a small run."""
    return _command(workdir, "effnet", FIELDS, flags)


def small_command(workdir: pathlib.Path, *flags: str) -> list[str]:
    """The command line of a run of `SMALL_FIELDS`."""
    return _command(workdir, "cnn", SMALL_FIELDS, flags)


def _command(workdir: pathlib.Path, name: str, fields: dict[str, Any], flags: Sequence[str]) -> list[str]:
    settings = [f"--config.{field}={value}" for field, value in fields.items()]
    return [
        sys.executable, "-m", "bt_jax.main", f"--config=configs/{name}.py:demo", f"--workdir={workdir}", *settings,
        *flags,
    ]  # fmt: skip


def run(arguments: list[str], *, fresh: bool = False, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs a command to its end.

    Args:
      arguments: of a process. One that runs a module of the package forks from a process that imported it before.
      fresh: starts a process that has imported nothing even so. At least one test of each command does.
      **environment: variables that are set in addition.
    """
    combined = {**os.environ, **environment}
    if not fresh and arguments[:2] == [sys.executable, "-m"] and command_server.fits(combined):
        status, output, errors = command_server.run(arguments[2], arguments[3:], combined, timeout=300)
        ended = subprocess.CompletedProcess(arguments, status, output, errors)
    else:
        ended = subprocess.run(
            arguments, cwd=ROOT, env=combined, capture_output=True, text=True, timeout=300, check=False
        )
    # A busy machine takes long, and then the command says what it waits for.
    ended.stderr = re.sub(r"^.*: \d+ s so far\n", "", ended.stderr, flags=re.MULTILINE)
    return ended


def rows(workdir: pathlib.Path) -> list[dict[str, Any]]:
    """The rows of `metrics.jsonl` without what depends on the clock."""
    return [
        {name: value for name, value in row.items() if name != "train/images_per_s"} for row in read_metrics(workdir)
    ]


def assert_same_result(a: pathlib.Path, b: pathlib.Path) -> None:
    """Two finished runs are the same to the bit: as `assert_same_training`, and temperature and predictions."""
    assert_same_training(a, b)
    for name in (
        "calibration.json",
        "doubt.npz",
        "report/validation/predictions.csv",
        "report/testing/predictions.csv",
    ):
        assert (a / name).read_bytes() == (b / name).read_bytes(), name


def assert_same_training(a: pathlib.Path, b: pathlib.Path) -> None:
    """Two runs were trained to the same bits: split, logged numbers, and both kept checkpoints."""
    assert rows(a) == rows(b)
    assert (a / "split.csv").read_bytes() == (b / "split.csv").read_bytes()
    # The latest and the best; the one before the latest may be one that an interruption left.
    kept = [
        {max(int(path.name) for path in (folder / "checkpoints").iterdir() if path.name.isdigit()),
         checkpoint.read_best_metadata(folder)[0]}
        for folder in (a, b)
    ]  # fmt: skip
    assert kept[0] == kept[1]
    for step in map(str, kept[0]):
        # Everything in it: weights, averages, optimiser states, step.
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Sharding info not provided")  # read where it was written
            contents = [ocp.load_checkpointables(folder.absolute() / "checkpoints" / step) for folder in (a, b)]
        leaves = [dict(jax.tree_util.tree_leaves_with_path(content)) for content in contents]
        assert len(leaves[0]) > 30
        assert leaves[0].keys() == leaves[1].keys()
        for path, array in leaves[0].items():
            np.testing.assert_array_equal(array, leaves[1][path], err_msg=f"step {step}, {path}")


def metrics(workdir: pathlib.Path, split: str) -> dict[str, Any]:
    """The `metrics.json` of a split."""
    content: dict[str, Any] = json.loads((workdir / "report" / split / "metrics.json").read_text())
    return content
