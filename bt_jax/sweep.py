"""Trains a grid of settings with several seeds each, and compares the runs. A repeated call resumes the sweep.

    python -m bt_jax.sweep --config=configs/mlp.py --grid='model.hidden=(64,),(256,64)' --seeds=3 --workdir=runs/mlp
    python -m bt_jax.sweep --config=configs/cnn.py --grid=model.dropout=0,.3 --grid=stages.epochs=5,20 --workdir=cnn

Values are separated by the commas outside brackets and quotes. In a shell, put quotes around brackets. Set any other
field as in training, with --config.FIELD=VALUE. Each run has its own folder below the workdir, such as
dropout=0.3_epochs=5/seed_0. sweep.json has the state of the sweep, and comparison/ has the tables and curves of
bt_jax.compare. Finished runs are skipped, and an interrupted run resumes. Other values or more seeds add runs. If a run
fails, the sweep continues, reports it at the end, and exits with status 1.

All runs share one process. Images are decoded once for each preprocessing, and runs that differ only in rates, epochs
or schedule share a compiled program. This is a research tool, not a medical device.
"""

import functools
import pathlib

import ml_collections
from absl import flags
from ml_collections import config_flags

from bt_jax.common import cli, files
from bt_jax.common.errors import UsageError
from bt_jax.experiments import grid

_CONFIG = config_flags.DEFINE_config_file(
    "config", None, "Configuration file, with a variant after a colon, such as configs/effnet.py:cpu."
)
_GRID = flags.DEFINE_multi_string("grid", [], "FIELD=A,B: a field and its values. Repeat the flag for several fields.")
_SEEDS = flags.DEFINE_integer("seeds", 1, "Number of seeds of each combination, counted from config.seed.", 1)
_WORKDIR = flags.DEFINE_string("workdir", "", "Folder for the runs, sweep.json and comparison/.")


def main() -> int:
    """Parses the grid, checks the configuration of every run, trains and compares."""
    for flag in (_CONFIG, _WORKDIR):
        if not flag.value:
            raise UsageError(f"--{flag.name} is missing: see --help")
    workdir = pathlib.Path(_WORKDIR.value)
    files.check_folder(workdir, flag="workdir")
    base = _CONFIG.value
    if not isinstance(base, ml_collections.ConfigDict):  # ml_collections defers the error to the first use
        raise UsageError(f"--config: {config_flags.get_config_filename(flags.FLAGS['config'])} cannot be read")
    values: dict[str, list] = {}
    for text in _GRID.value:
        field, found = grid.parse(text, fields=_flatten_fields(base.to_dict()))
        if field in values:
            raise UsageError(f"--grid names {field} twice: give all its values in one flag, as {field}=A,B")
        values[field] = found
    # Imported late: grain defines flags of its own, and --help need not wait for JAX.
    from bt_jax.experiments import runner
    from bt_jax.training import config_check, program_cache, train

    for config in runner.plan_runs(base, values=values, seeds=_SEEDS.value).values():
        config_check.check_config(config)
        if not config.data.folds:
            raise UsageError("config.data.folds is 0, so the runs could not be compared: use at least 2")
    cli.prepare_to_compute()
    with program_cache.share_programs():
        return runner.run_sweep(
            base,
            workdir,
            values=values,
            seeds=_SEEDS.value,
            train=train.train_and_evaluate,
            say=functools.partial(print, flush=True),
        )


def _flatten_fields(tree: dict, prefix: str = "") -> dict:
    """Flattens a configuration to {"a.b": value}, and keeps tuples."""
    flat: dict = {}
    for key, value in tree.items():
        flat |= _flatten_fields(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat


if __name__ == "__main__":
    cli.run(main)
