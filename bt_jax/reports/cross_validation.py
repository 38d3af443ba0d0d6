"""Scores all folds of a cross-validation together.

Each image is scored by the one model that was trained without its patient.
"""

import dataclasses
import json
import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np

from bt_jax.common import files
from bt_jax.common.spread import Spread
from bt_jax.data import shift_probe
from bt_jax.data.class_labels import SYNTHETIC_NOTICE
from bt_jax.metrics import calibration, classification
from bt_jax.metrics.by_patient import Patients
from bt_jax.metrics.calibration import Calibration, Temperature
from bt_jax.reports import model_card, score_text, split_report
from bt_jax.workdir import checkpoint, run_folder

FILE = "cross_validation.json"
SPLIT = "out_of_fold"
KNOWN_SPLIT = "out_of_fold_known_patients"
SCHEMA = 1
_SPREAD = ("accuracy", "macro_f1", "macro_auc", "ece")
_POOLED = (
    "n", "accuracy", "accuracy_ci95", "loss", "macro_f1", "macro_auc", "macro_average_precision", "ece",
    "ece_if_calibrated", "patients",
)  # fmt: skip
# Replaces probabilities that a table shows as 0, so that their logarithm is finite.
_SMALLEST = 1e-300


@dataclasses.dataclass(frozen=True)
class OutOfFold:
    """Predictions of all folds, in the order of the images' paths.

    Attributes:
      class_names: C names.
      paths: N paths relative to the data folder.
      labels: [N] int64.
      logits: [N, C] float64, of the model that was validated on the image; known up to a constant in each row.
      folds: [N] int64, the fold of that model.
      leaked: [N] bool, whether the image has a near-duplicate among that model's training images.
      groups: N patients.
      known: [N] bool, whether the patient has a name in the data.
    """

    class_names: tuple[str, ...]
    paths: list[str]
    labels: np.ndarray
    logits: np.ndarray
    folds: np.ndarray
    leaked: np.ndarray
    groups: list[str]
    known: np.ndarray

    def select(self, rows: np.ndarray) -> "OutOfFold":
        """Returns the predictions selected by a mask [N] bool."""
        numbers = np.flatnonzero(rows)
        return dataclasses.replace(
            self,
            paths=[self.paths[number] for number in numbers],
            groups=[self.groups[number] for number in numbers],
            labels=self.labels[rows],
            logits=self.logits[rows],
            folds=self.folds[rows],
            leaked=self.leaked[rows],
            known=self.known[rows],
        )


def write(
    folder: pathlib.Path, *, predictions: OutOfFold, ensemble: Temperature, folds: int, say: Callable[[str], None]
) -> None:
    """Scores the folds of a finished cross-validation together.

    Writes `report/out_of_fold/` and `report/model_card.md`. If only some patients have names in the data, writes
    `report/out_of_fold_known_patients/` on the images of these, too. Writes `cross_validation.json` last, with mean and
    range over the folds, the pooled scores, and the calibration. The probabilities of a fold are calibrated with the
    temperature fitted on the predictions of all other folds, so the calibration error afterwards is measured on images
    that the temperature was not fitted on.

    Args:
      folder: workdir with a `fold_0`, `fold_1`, ... for each fold.
      predictions: of all folds, from `pool_predictions`.
      ensemble: the temperature of the ensemble, see `fit_ensemble_temperature`.
      folds: number of folds.
      say: called with one line for each result and each file worth opening.
    """
    workdirs = list_workdirs(folder, folds)
    record = json.loads((workdirs[0] / "run.json").read_bytes())
    synthetic = bool(record["data"]["synthetic"])
    notice = SYNTHETIC_NOTICE if synthetic else None
    temperatures = fit_temperatures(predictions)
    after = calibration.softmax(predictions.logits, temperatures[predictions.folds][:, None])
    results = report_splits(
        folder / "report", predictions, probabilities=after, grouping=record["data"]["grouping"], notice=notice
    )
    result = results[SPLIT]
    facts = _collect_facts(workdirs, record, ensemble)
    recalls = _read_probe_recalls(workdirs) if record["data"].get("probe") else []
    if recalls:
        spread = Spread.from_values(recalls)
        facts["shift_probe"] = (
            f"mean recall {spread.mean:.3f} over the networks ({spread.low:.3f} to {spread.high:.3f}) on images of "
            f"{record['data']['probe']}, which were excluded from training"
        )
        say(f"shift probe: {facts['shift_probe']}")
    card = folder / "report" / "model_card.md"
    model_card.write_model_card(card, facts=facts, metrics=results, notice=notice)

    summary: dict[str, Any] = {"schema": SCHEMA, "folds": folds, "synthetic": synthetic, "notice": notice}
    if recalls:
        recall = _convert_spread(Spread.from_values(recalls))
        summary["shift_probe"] = {"of": record["data"]["probe"], "recall": recall, "recalls": recalls}
    scores = [_score_fold(predictions, after, fold) for fold in range(folds)]
    for name in _SPREAD:
        values = [score[name] for score in scores if score[name] is not None]
        summary[name] = None
        if values:
            spread = Spread.from_values(values)
            summary[name] = _convert_spread(spread)
            say(f"{name} over {folds} folds: {spread.mean:.3f} ({spread.low:.3f} to {spread.high:.3f})")
    summary["pooled"] = {
        **_select_scores(result),
        "caution": result["caution"],
        "subsets": {name: _select_scores(part) for name, part in result["subsets"].items()},
    }
    if KNOWN_SPLIT in results:
        summary["known_patients"] = _select_scores(results[KNOWN_SPLIT])
    summary["calibration"] = {
        **result["calibration"],
        "temperatures": temperatures,
        "ensemble_temperature": ensemble.value,
    }
    for found in results.values():
        say(score_text.summarise_scores(found))
    say(f"{SPLIT}: {score_text.describe_calibration(result)}")
    if notice:
        say(f"warning: {notice}")
    say(f"report: {card}")
    files.write_json(folder / FILE, summary)


def fit_temperatures(predictions: OutOfFold) -> np.ndarray:
    """Fits the temperature of each fold on all other folds, or on itself if it is alone: [folds] float64."""
    folds = range(predictions.folds.max() + 1)
    alone = len(folds) == 1
    return np.array([_fit_temperature(predictions, (predictions.folds != fold) | alone) for fold in folds])


def report_splits(
    folder: pathlib.Path, predictions: OutOfFold, *, probabilities: np.ndarray, grouping: str, notice: str | None
) -> dict[str, dict[str, Any]]:
    """Writes the reports of all images and, if only some patients have names in the data, of the images of these.

    Args:
      folder: for a folder of each report.
      predictions: of all folds.
      probabilities: [N, C], calibrated by `fit_temperatures`.
      grouping: how the groups are known, as text.
      notice: a warning for every picture and the text.

    Returns:
      The scores by the name of the split.
    """
    splits = {SPLIT: np.ones(len(predictions.labels), bool)}
    if 0 < predictions.known.sum() < len(predictions.known):
        splits[KNOWN_SPLIT] = predictions.known
    alone = not predictions.folds.max()
    return {
        name: _report_split(
            folder / name, predictions.select(rows), probabilities[rows], alone=alone, grouping=grouping, notice=notice
        )
        for name, rows in splits.items()
    }


def _report_split(
    folder: pathlib.Path,
    predictions: OutOfFold,
    probabilities: np.ndarray,
    *,
    alone: bool,
    grouping: str,
    notice: str | None,
) -> dict[str, Any]:
    """Writes the report of some of the predictions, with their calibrated probabilities [N, C], and scores them."""
    return split_report.write_split_report(
        folder,
        split=folder.name,
        paths=predictions.paths,
        labels=predictions.labels,
        probabilities=probabilities,
        class_names=predictions.class_names,
        leaked=predictions.leaked,
        patients=Patients(predictions.groups, grouping),
        known=predictions.known,
        change=Calibration(
            uncalibrated=calibration.softmax(predictions.logits),
            temperature=None,
            fitted_on="the validation images" if alone else "the validation images of the other folds",
            biased=alone,
        ),
        notice=notice,
    )


def list_workdirs(folder: pathlib.Path, folds: int) -> list[pathlib.Path]:
    """Returns the workdirs of the folds of a cross-validation."""
    return [folder / f"fold_{fold}" for fold in range(folds)]


def pool_predictions(workdirs: list[pathlib.Path]) -> OutOfFold:
    """Reads the predictions in the folds' reports."""
    rows: list[tuple[str, str, int, np.ndarray, bool, str, bool]] = []
    class_names: tuple[str, ...] = ()
    for fold, workdir_ in enumerate(workdirs):
        step, _ = checkpoint.read_best_metadata(workdir_)
        temperature = calibration.read(workdir_, step=step)
        assert temperature is not None  # written with the report
        folder = workdir_ / "report" / "validation"
        table, images = files.read_csv(folder / "predictions.csv"), files.read_csv(folder / "images.csv")
        class_names = tuple(table[0])[3:]
        for row, image in zip(table, images, strict=True):
            probabilities = np.array([row[name] for name in class_names], np.float64)
            logits = temperature.value * np.log(np.maximum(probabilities, _SMALLEST))
            known = image.get("known_patient") == "1"  # earlier reports lack it
            rows.append((row["path"], row["label"], fold, logits, image["leaked"] == "1", image["patient"], known))
    rows.sort(key=lambda row: row[0])
    paths, labels, folds, logits_, leaked, groups, named = zip(*rows, strict=True)
    return OutOfFold(
        class_names=class_names,
        paths=list(paths),
        labels=np.array([class_names.index(label) for label in labels]),
        logits=np.stack(logits_),
        folds=np.array(folds),
        leaked=np.array(leaked, bool),
        groups=list(groups),
        known=np.array(named, bool),
    )


def _read_probe_recalls(workdirs: list[pathlib.Path]) -> list[float]:
    """Reads the recall of each fold's network on the shift probe, on the clean images if there are any."""
    found = []
    for workdir_ in workdirs:
        result = json.loads((workdir_ / "report" / shift_probe.SPLIT / "metrics.json").read_bytes())
        shown = result["subsets"]["clean"] if result["subsets"]["clean"]["n"] else result
        found += [float(row["recall"]) for row in shown["per_class"].values() if row["support"]]
    return found


def fit_ensemble_temperature(predictions: OutOfFold) -> Temperature:
    """Fits the temperature of the ensemble on all out-of-fold predictions.

    The ensemble cannot have a temperature of its own, since every image is a training image of some member. So each
    member's logits are divided by this one, and then the probabilities are averaged. An ensemble of calibrated members
    is underconfident (Rahaman and Thiery 2021, https://arxiv.org/abs/2007.08792).
    """
    count, folds = len(predictions.labels), len(np.unique(predictions.folds))
    return Temperature(
        value=_fit_temperature(predictions, np.ones(count, bool)),
        fitted_on=f"the {count} out-of-fold predictions of {folds} folds",
        images=count,
    )


def _fit_temperature(predictions: OutOfFold, rows: np.ndarray) -> float:
    return calibration.fit(predictions.logits[rows], predictions.labels[rows])


def _score_fold(predictions: OutOfFold, probabilities: np.ndarray, fold: int) -> dict[str, Any]:
    rows = predictions.folds == fold
    return classification.score(
        split=f"fold_{fold}",
        labels=predictions.labels[rows],
        probabilities=probabilities[rows],
        class_names=predictions.class_names,
    )


def _select_scores(result: dict[str, Any]) -> dict[str, Any]:
    return {name: result[name] for name in _POOLED}


def _collect_facts(
    workdirs: list[pathlib.Path], record: dict[str, Any], ensemble: Temperature
) -> model_card.ModelFacts:
    """Collects the facts of the ensemble's model card, from the record of the first fold and the times of all."""
    _, metadata = checkpoint.read_best_metadata(workdirs[0])
    model = metadata["model"]
    records = [
        run_folder.RunRecord(path / "run.json", json.loads((path / "run.json").read_bytes())) for path in workdirs
    ]
    return {
        "title": f"{model['name']}, cross-validation over {len(workdirs)} folds",
        "model": f"mean of {len(workdirs)} networks: {model['name']} at {model['preprocessing']['size']} pixels"
        + (model_card.MIRRORED if model.get("mirrored") else ""),
        "weights": model["weights"],
        "data_source": record["data"]["source"],
        "provenance": records[0].get_provenance(),
        "synthetic": bool(record["data"]["synthetic"]),
        "kaggle_set": bool(record["data"]["kaggle_set"]),
        "classes": model["class_names"],
        "split": f"each image is scored by the network that was trained without its group; grouping: "
        f"{record['data']['grouping']}",
        "calibration": f"In use, each of the {len(workdirs)} networks divides its logits by {ensemble.value:.4f}, "
        f"fitted on {ensemble.fitted_on}. This is the temperature of a single network, since every image was used to "
        f"train some of them. The mean of the networks is therefore underconfident.",
        "versions": records[0].content["versions"],
        "duration_s": sum(one.get_total_seconds() for one in records),
    }


def _convert_spread(spread: Spread) -> dict[str, float]:
    return {"mean": spread.mean, "min": spread.low, "max": spread.high}
