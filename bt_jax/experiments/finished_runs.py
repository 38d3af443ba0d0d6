"""Runs as their workdirs tell of them, once they are finished."""

import contextlib
import csv
import dataclasses
import hashlib
import json
import pathlib
import re
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from bt_jax.common.errors import UsageError
from bt_jax.data import shift_probe
from bt_jax.workdir import metric_log, run_folder

_FOLD = re.compile(r"fold_(\d+)")


class ValidationPrediction(NamedTuple):
    """What a run said of a validation image.

    Attributes:
      fingerprint: of its pixels.
      label: the true class.
      group: of images that belong together, such as a patient's.
      right: whether the prediction is the label.
    """

    fingerprint: str
    label: str
    group: str
    right: bool


@dataclasses.dataclass(frozen=True)
class FinishedRun:
    """A finished run, or a fold of a cross-validation.

    Attributes:
      folder: its workdir.
      config: {"a.b": value}, without `seed` and what cannot change the result. A fold's `data.fold` is that of all
        folds; `model.name` is the model that was trained, if need be the fallback; real data have a field
        `data` with a hash of the images, as phantoms, which differ with the seed, do not.
      seed: of the run.
      fold: of a cross-validation, else None.
      synthetic: trained on phantoms.
      scores: `metrics.json` of `validation` and, where there were such images, `testing` and `source_probe`.
      curves: rows of `metrics.jsonl`.
      seconds: that its stages took, with their evaluations, checkpoints and waiting for the compiler.
    """

    folder: pathlib.Path
    config: dict[str, Any]
    seed: int
    fold: int | None
    synthetic: bool
    scores: dict[str, dict[str, Any]]
    curves: list[dict[str, Any]]
    seconds: float

    def answers(self) -> dict[str, ValidationPrediction]:
        """The validation images by path.

        Raises:
          UsageError: a file is missing or is not what its name says.
        """
        with _convert_errors(self.folder):
            images = {row["path"]: row for row in _table(self.folder / "split.csv") if row["role"] == "validation"}
            return {
                row["path"]: ValidationPrediction(
                    fingerprint=images[row["path"]]["fingerprint"],
                    label=row["label"],
                    group=images[row["path"]]["group"],
                    right=row["prediction"] == row["label"],
                )
                for row in _table(self.folder / "report" / "validation" / "predictions.csv")
            }


def is_finished(folder: pathlib.Path) -> bool:
    """Whether a run has written the last file of its report; of a cross-validation, whether all folds have."""
    return (folder / "report" / "model_card.md").exists() or (folder / "cross_validation.json").exists()


def find_runs(directories: Iterable[pathlib.Path]) -> tuple[list[FinishedRun], list[str]]:
    """Reads the runs in directories and below them.

    Returns:
      The finished runs, each once, in the order of the directories and then of their paths; and a line for each run
      that is left out.

    Raises:
      UsageError: a directory that is not there or holds no run, or a file that is not what its name says.
    """
    folders: dict[pathlib.Path, pathlib.Path] = {}
    for directory in directories:
        if not directory.is_dir():
            raise UsageError(f"{directory} is not there: name the workdirs of runs, or a folder that holds them")
        found = sorted((path.parent for path in directory.rglob("config.json")), key=_make_natural_key)
        if not found:
            raise UsageError(f"{directory} holds no run: there is no config.json in it or below")
        for folder in found:
            folders.setdefault(folder.resolve(), folder)
    runs: list[FinishedRun] = []
    left_out: list[str] = []
    for folder in folders.values():
        if not is_finished(folder):
            left_out.append(f"{folder} is not finished")
            continue
        run = read_run(folder)
        same = next((r for r in runs if (r.config, r.seed, r.fold) == (run.config, run.seed, run.fold)), None)
        if same is None:
            runs.append(run)
        else:
            left_out.append(f"{folder} repeats {same.folder}, with the same settings and seed")
    return runs, left_out


def read_run(folder: pathlib.Path) -> FinishedRun:
    """Reads the workdir of a finished run.

    Raises:
      UsageError: a file is missing or is not what its name says.
    """
    with _convert_errors(folder):
        config = run_folder.flatten(_read_json(folder / "config.json")["config"])
        record = _read_json(folder / "run.json")
        scores = {
            split: _read_json(folder / "report" / split / "metrics.json")
            for split in ("validation", "testing", shift_probe.SPLIT)
            if split == "validation" or (folder / "report" / split).exists()
        }
        for name in ("accuracy", "macro_f1", "per_class"):
            scores["validation"][name]
        synthetic = bool(record["data"]["synthetic"])
        is_fold = _FOLD.fullmatch(folder.resolve().name)
        result_fields = {name: value for name, value in config.items() if name not in (*run_folder.FREE_FIELDS, "seed")}
        result_fields["model.name"] = record["model"]["name"]
        if is_fold:
            result_fields["data.fold"] = -1
        if not synthetic:
            images = sorted((row["path"], row["fingerprint"]) for row in _table(folder / "split.csv"))
            result_fields["data"] = hashlib.sha256(repr(images).encode()).hexdigest()[:8]
        return FinishedRun(
            folder=folder,
            config=result_fields,
            seed=config["seed"],
            fold=int(is_fold[1]) if is_fold else None,
            synthetic=synthetic,
            scores=scores,
            curves=metric_log.read_metrics(folder),
            seconds=sum(record["seconds_by_stage"].values()),
        )


@contextlib.contextmanager
def _convert_errors(folder: pathlib.Path) -> Iterator[None]:
    """Whatever is wrong with the files of a run becomes one line."""
    try:
        yield
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        what = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise UsageError(f"the files of the run in {folder} cannot be read ({what}): leave it out") from error


def _read_json(path: pathlib.Path) -> Any:
    return json.loads(path.read_text())


def _table(path: pathlib.Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def _make_natural_key(path: pathlib.Path) -> list[tuple[str, int]]:
    """A key by which `seed_10` comes after `seed_9`."""
    return [(text, int(number or 0)) for text, number in re.findall(r"(\D*)(\d*)", str(path))]
