"""Reads finished runs from their workdirs."""

import contextlib
import dataclasses
import hashlib
import json
import pathlib
import re
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from bt_jax.common import files
from bt_jax.common.errors import UsageError
from bt_jax.data import shift_probe
from bt_jax.workdir import metric_log, run_folder

_FOLD = re.compile(r"fold_(\d+)")


class ValidationPrediction(NamedTuple):
    """The prediction of a run for one validation image.

    Attributes:
      fingerprint: hash of its pixels.
      label: the true class.
      group: of images that belong together, such as those of one patient.
      right: whether the predicted class is the true one.
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
      config: {"a.b": value}, without `seed` and without fields that cannot change the result. `data.fold` is -1 for
        every fold of a cross-validation. `model.name` is the model that was trained, which may be the fallback. Runs
        on real images have a field `data` with a hash of the images. Phantoms have none, since they differ by seed.
      seed: of the run.
      fold: of a cross-validation, else None.
      synthetic: whether it was trained on phantoms.
      scores: `metrics.json` of `validation`, and of `testing` and `source_probe` if the data have such images.
      curves: rows of `metrics.jsonl`.
      seconds: duration of its stages, including evaluation, checkpoints and compilation.
    """

    folder: pathlib.Path
    config: dict[str, Any]
    seed: int
    fold: int | None
    synthetic: bool
    scores: dict[str, dict[str, Any]]
    curves: list[dict[str, Any]]
    seconds: float

    def read_predictions(self) -> dict[str, ValidationPrediction]:
        """Reads the predictions of the validation images, by path.

        Raises:
          UsageError: a file is missing or damaged.
        """
        with _convert_errors(self.folder):
            images = {
                row["path"]: row for row in files.read_csv(self.folder / "split.csv") if row["role"] == "validation"
            }
            return {
                row["path"]: ValidationPrediction(
                    fingerprint=images[row["path"]]["fingerprint"],
                    label=row["label"],
                    group=images[row["path"]]["group"],
                    right=row["prediction"] == row["label"],
                )
                for row in files.read_csv(self.folder / "report" / "validation" / "predictions.csv")
            }


def is_finished(folder: pathlib.Path) -> bool:
    """Returns whether a run has written the last file of its report; a cross-validation, that of all its folds."""
    return (folder / "report" / "model_card.md").exists() or (folder / "cross_validation.json").exists()


def find_runs(directories: Iterable[pathlib.Path]) -> tuple[list[FinishedRun], list[str]]:
    """Reads the runs in directories and in their subfolders.

    Returns:
      The finished runs, each once, in the order of the directories and then of their paths; and one line for each
      excluded run.

    Raises:
      UsageError: a directory does not exist or contains no run, or a file is damaged.
    """
    folders: dict[pathlib.Path, pathlib.Path] = {}
    for directory in directories:
        if not directory.is_dir():
            raise UsageError(f"{directory} does not exist: give the workdirs of runs, or a folder that contains them")
        found = sorted((path.parent for path in directory.rglob("config.json")), key=_make_natural_key)
        if not found:
            raise UsageError(f"{directory} contains no run: there is no config.json in it or in its subfolders")
        for folder in found:
            folders.setdefault(folder.resolve(), folder)
    runs: list[FinishedRun] = []
    left_out: list[str] = []
    for folder in folders.values():
        if not is_finished(folder):
            left_out.append(f"{folder} is not finished")
            continue
        if not (folder / "report" / "validation").exists():
            left_out.append(f"{folder} validated nothing: its config.data.folds is 0")
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
      UsageError: a file is missing or damaged.
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
            images = sorted((row["path"], row["fingerprint"]) for row in files.read_csv(folder / "split.csv"))
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
    """Converts errors from a run's files into a UsageError of one line."""
    try:
        yield
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        what = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise UsageError(f"the files of the run in {folder} cannot be read ({what}): exclude it") from error


def _read_json(path: pathlib.Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def _make_natural_key(path: pathlib.Path) -> list[tuple[str, int]]:
    """Makes a sort key that puts `seed_10` after `seed_9`."""
    return [(text, int(number or 0)) for text, number in re.findall(r"(\D*)(\d*)", str(path))]
