"""Training from a configuration to a report."""

import pathlib
from collections.abc import Callable

import ml_collections

from bt_jax.data import dataset
from bt_jax.distributed import processes
from bt_jax.training import config_check, program_cache
from bt_jax.training.finalise import finalise, finalise_folds
from bt_jax.training.loop import fit
from bt_jax.training.setup import prepare
from bt_jax.workdir import run_folder


def train_and_evaluate(
    config: ml_collections.ConfigDict,
    folder: pathlib.Path,
    *,
    began: float | None = None,
    publish: Callable[[], None] | None = None,
) -> int:
    """Trains one fold, or all of them, and writes the report. Called again with the same folder, it resumes.

    All processes of a run call it alike; the first one writes.

    Args:
      config: as of `configs/effnet.py`.
      folder: the workdir, which is created if needed. All hosts must see the same one.
      began: `time.monotonic()` when the command began, for the time to the first step; None: now.
      publish: called when files in the folder have changed, before each checkpoint and at the end; None: nothing is.

    Returns:
      The exit status: 0, or 128 + the number of the signal that interrupted the run.

    Raises:
      UsageError: a wrong field, path or file, or a loss that is not finite.
    """
    config_check.check_config(config)
    if config.data.fold != -1:
        return train_fold(config, folder, began=began, publish=publish)
    with dataset.cache_datasets(), program_cache.share_programs():
        for fold in range(config.data.folds):
            processes.say(f"\nFold {fold} of {config.data.folds}")
            fold_config = config.copy_and_resolve_references()
            fold_config.data.fold = fold
            if status := train_fold(fold_config, folder / f"fold_{fold}", began=began, publish=publish):
                return status
            began = None  # only the first fold starts with the command
    if processes.is_first():
        finalise_folds(folder, folds=config.data.folds)
    if publish is not None:
        publish()
    return 0


def train_fold(
    config: ml_collections.ConfigDict, folder: pathlib.Path, *, began: float | None, publish: Callable[[], None] | None
) -> int:
    """Trains one fold and writes its report; returns the exit status, see `train_and_evaluate`."""
    with run_folder.open_run(folder, began=began, publish=publish) as run:
        setup = prepare(config, run)
        result = fit(setup, run)
        if not result.status:
            finalise(setup, run, result)
    return result.status
