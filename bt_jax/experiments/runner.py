"""Runs a sweep: trains a grid of configurations one after the other, and keeps its state in `sweep.json`."""

import dataclasses
import hashlib
import json
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import ml_collections

from bt_jax.common import files
from bt_jax.common.errors import UsageError
from bt_jax.data import dataset
from bt_jax.experiments import comparison, finished_runs, grid
from bt_jax.workdir import run_folder

SCHEMA = 1
STATE_FILE = "sweep.json"
COMPARISON_FOLDER = "comparison"
# (config, workdir) -> exit status: 0, or 128 + the number of a signal.
Train = Callable[[ml_collections.ConfigDict, pathlib.Path], int]


@dataclasses.dataclass
class SweepRun:
    """One run of a sweep.

    Attributes:
      folder: relative to the sweep's folder, such as `hidden=64_epochs=5/seed_0`.
      settings: {"a.b": value} of the grid.
      seed: of the run.
      key: hash of the whole configuration; it identifies the run after the grid was changed.
      state: waiting, running, finished, failed or interrupted.
      error: why it failed, else None.
    """

    folder: str
    settings: dict[str, Any]
    seed: int
    key: str
    state: str = "waiting"
    error: str | None = None


def run_sweep(
    base: ml_collections.ConfigDict,
    folder: pathlib.Path,
    *,
    values: Mapping[str, Sequence[Any]],
    seeds: int,
    train: Train,
    say: Callable[[str], None],
) -> int:
    """Trains every combination of `values` with `seeds` seeds, then compares all runs of the folder.

    Finished runs are skipped, and an interrupted run resumes. Other values or more seeds than before add runs; earlier
    runs stay in the comparison. If a run fails, the sweep continues with the next one.

    Args:
      base: the configuration; its seed is that of the first repetition.
      folder: for the runs, `sweep.json` and `comparison/`.
      values: {"a.b": values} from `grid.parse`.
      seeds: number of seeds of each combination.
      train: trains one run.
      say: called with each line of output.

    Returns:
      The exit status: 0, 1 if a run failed, or the status of an interrupted run.

    Raises:
      UsageError: the runs in the folder have another base configuration.
    """
    configs = plan_runs(base, values=values, seeds=seeds)
    with run_folder.lock(folder), dataset.cache_datasets():
        runs = _open_runs(folder, base, values=values, configs=configs)
        waiting = [one for one in runs if one.key in configs]
        for number, one in enumerate(waiting, start=1):
            name = f"run {number} of {len(waiting)}: {one.folder}"
            if finished_runs.is_finished(folder / one.folder):
                one.state, one.error = "finished", None
                say(f"{name}: finished before")
                continue
            say(f"\n{name}")
            one.state, one.error = "running", None
            _save_state(folder, base, values=values, seeds=seeds, runs=runs)
            try:
                status = train(configs[one.key], folder / one.folder)
                one.state = "interrupted" if status else "finished"
            except UsageError as error:
                status, one.state, one.error = 0, "failed", str(error)
                say(f"failed: {error}")
            _save_state(folder, base, values=values, seeds=seeds, runs=runs)
            if status:
                return status
        _save_state(folder, base, values=values, seeds=seeds, runs=runs)
    return _compare_finished(folder, runs, say=say)


def plan_runs(
    base: ml_collections.ConfigDict, *, values: Mapping[str, Sequence[Any]], seeds: int
) -> dict[str, ml_collections.ConfigDict]:
    """Returns the configurations of all runs by key: each combination with each seed."""
    configs = {}
    for point in grid.list_points(values):
        for seed in range(base.seed, base.seed + seeds):
            config = base.copy_and_resolve_references()
            config.update_from_flattened_dict({**point, "seed": seed})
            configs[_hash_config(config)] = config
    return configs


def _hash_config(config: ml_collections.ConfigDict) -> str:
    return hashlib.sha256(json.dumps(_select_result_fields(config), sort_keys=True).encode()).hexdigest()[:16]


def _select_result_fields(config: ml_collections.ConfigDict) -> dict[str, Any]:
    """Selects the fields that determine a run's result."""
    flat = run_folder.flatten(config.to_dict())
    return {field: value for field, value in flat.items() if field not in run_folder.FREE_FIELDS}


def _open_runs(
    folder: pathlib.Path,
    base: ml_collections.ConfigDict,
    *,
    values: Mapping[str, Sequence[Any]],
    configs: Mapping[str, ml_collections.ConfigDict],
) -> list[SweepRun]:
    """Reads the runs of the folder, and adds those of the plan that it does not have."""
    path = folder / STATE_FILE
    runs: list[SweepRun] = []
    if path.exists():
        content = json.loads(path.read_bytes())
        runs = [SweepRun(**one) for one in content["runs"]]
        if different := run_folder.describe_differences(
            content["base"], _select_result_fields(base), free={"seed", *values, *content["grid"]}
        ):
            raise UsageError(
                f"{path} belongs to a sweep over another configuration: {different}. "
                f"Use another --workdir, or the same fields to continue it"
            )
    known, taken = {one.key for one in runs}, {one.folder for one in runs}
    for key, config in configs.items():
        if key in known:
            continue
        flat = run_folder.flatten(config.to_dict())
        settings = {field: flat[field] for field in values}
        name = grid.name_folder(settings)
        place = "/".join(filter(None, (name, f"seed_{config.seed}")))
        number = 2
        while place in taken:  # two values can have the same name
            place = f"{name}_({number})/seed_{config.seed}"
            number += 1
        taken.add(place)
        runs.append(SweepRun(folder=place, settings=settings, seed=config.seed, key=key))
    return runs


def _save_state(
    folder: pathlib.Path,
    base: ml_collections.ConfigDict,
    *,
    values: Mapping[str, Sequence[Any]],
    seeds: int,
    runs: Sequence[SweepRun],
) -> None:
    content = {
        "schema": SCHEMA,
        "base": _select_result_fields(base),
        "grid": dict(values),
        "seeds": seeds,
        "runs": [dataclasses.asdict(one) for one in runs],
    }
    files.write_json(folder / STATE_FILE, content)


def _compare_finished(folder: pathlib.Path, runs: Sequence[SweepRun], *, say: Callable[[str], None]) -> int:
    """Compares the finished runs and reports those that failed."""
    finished = [folder / one.folder for one in runs if finished_runs.is_finished(folder / one.folder)]
    if finished:
        say("")
        comparison.write_comparison(finished, folder / COMPARISON_FOLDER, say=say)
    failed = [one for one in runs if one.state == "failed"]
    for one in failed:
        say(f"failed: {one.folder}: {one.error}")
    return 1 if failed else 0
