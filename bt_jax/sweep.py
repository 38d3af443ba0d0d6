"""Trains a grid of settings, each with several seeds, and puts the runs side by side. Run again, it goes on.

    python -m bt_jax.sweep --config=configs/mlp.py --grid='model.hidden=(64,),(256,64)' --seeds=3 --workdir=runs/mlp
    python -m bt_jax.sweep --config=configs/cnn.py --grid=model.dropout=0,.3 --grid=stages.epochs=5,20 --workdir=cnn

Values are split at the commas outside of brackets and quotes; a shell wants quotes around brackets. Any other field is
set as in training, --config.FIELD=VALUE. Each run has a folder of its own below the workdir, as dropout=0.3_epochs=5/
seed_0; sweep.json says where the sweep stands; comparison/ holds the tables and curves of bt_jax.compare. Finished runs
are skipped, one that was interrupted goes on where it stopped, other values or more seeds add runs. A run that fails is
named at the end, and the exit status is 1.

All runs share one process: images are decoded once for each preprocessing, and a compiled program serves all runs that
differ only in rates, epochs, schedule or augmentation. This is a research tool, not a medical device.
"""

import functools
import pathlib

import ml_collections
from absl import flags
from ml_collections import config_flags

from bt_jax.common import cli
from bt_jax.common.errors import UsageError
from bt_jax.experiments import grid

_CONFIG = config_flags.DEFINE_config_file(
    "config", None, "Configuration file, with a variant after a colon, such as configs/effnet.py:cpu."
)
_GRID = flags.DEFINE_multi_string("grid", [], "FIELD=A,B: a field and its values; may be given several times.")
_SEEDS = flags.DEFINE_integer("seeds", 1, "Repeats of each combination, with seeds from config.seed on.", 1)
_WORKDIR = flags.DEFINE_string("workdir", "", "Folder for the runs, sweep.json and comparison/.")


def main() -> int:
    """Reads the grid, checks every run's configuration, trains and compares."""
    for flag in (_CONFIG, _WORKDIR):
        if not flag.value:
            raise UsageError(f"--{flag.name} is missing: see --help")
    base = _CONFIG.value
    if not isinstance(base, ml_collections.ConfigDict):  # ml_collections defers the error to the first use
        raise UsageError(f"--config: {config_flags.get_config_filename(flags.FLAGS['config'])} cannot be read")
    values: dict[str, list] = {}
    for text in _GRID.value:
        field, found = grid.parse(text, fields=_flatten_fields(base.to_dict()))
        if field in values:
            raise UsageError(f"--grid names {field} twice: give all its values in one, as {field}=A,B")
        values[field] = found
    # After the flags: grain defines flags of its own, and --help need not wait for JAX.
    from bt_jax.experiments import runner
    from bt_jax.training import config_check, train

    for config in runner.plan_runs(base, values=values, seeds=_SEEDS.value).values():
        config_check.check_config(config)
    cli.prepare_to_compute()
    return runner.run_sweep(
        base,
        pathlib.Path(_WORKDIR.value),
        values=values,
        seeds=_SEEDS.value,
        train=train.train_and_evaluate,
        say=functools.partial(print, flush=True),
    )


def _flatten_fields(tree: dict, prefix: str = "") -> dict:
    """{"a.b": value} with tuples as they are."""
    flat: dict = {}
    for key, value in tree.items():
        flat |= _flatten_fields(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat


if __name__ == "__main__":
    cli.run(main)
