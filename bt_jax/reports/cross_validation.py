"""All folds of a cross-validation together: each image is scored by the one model that never saw its patient."""

import csv
import dataclasses
import json
import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np

from bt_jax.common import files
from bt_jax.data import shift_probe
from bt_jax.data.class_labels import SYNTHETIC_NOTICE
from bt_jax.metrics import calibration, classification
from bt_jax.metrics.by_patient import Patients
from bt_jax.metrics.calibration import Calibration, Temperature
from bt_jax.reports import model_card, score_text, split_report
from bt_jax.workdir import checkpoint, run_folder

FILE = "cross_validation.json"
SPLIT = "out_of_fold"
SCHEMA = 1
_SPREAD = ("accuracy", "macro_f1", "macro_auc", "ece")
_POOLED = (
    "n", "accuracy", "accuracy_ci95", "loss", "macro_f1", "macro_auc", "macro_average_precision", "ece",
    "ece_if_calibrated", "patients",
)  # fmt: skip
# Of probabilities that a table shows as 0, so that their logarithm is finite.
_SMALLEST = 1e-300


@dataclasses.dataclass(frozen=True)
class OutOfFold:
    """The answers of all folds, in the order of the images' paths.

    Attributes:
      class_names: C names.
      paths: N.
      labels: [N] int64.
      logits: [N, C] float64, up to a constant in each row, of the model that was validated on the image.
      folds: [N] int64, the fold of that model.
      leaked: [N] bool, images with a twin among that model's training images.
      groups: [N], patients.
    """

    class_names: tuple[str, ...]
    paths: list[str]
    labels: np.ndarray
    logits: np.ndarray
    folds: np.ndarray
    leaked: np.ndarray
    groups: list[str]


def summarise(folder: pathlib.Path, *, folds: int, say: Callable[[str], None]) -> None:
    """Scores the folds of a finished cross-validation together.

    Writes `report/out_of_fold/` and `report/model_card.md`, the ensemble's `calibration.json`, and at last
    `cross_validation.json`: mean and range over the folds, the pooled scores, and the calibration. The probabilities
    of a fold are calibrated with the temperature fitted on the answers of all other folds, so that the error after it
    is that of images it was not fitted on.

    Of the ensemble no image is unseen by all members, so a temperature of its own cannot be fitted. Each member's
    logits are divided by the temperature of all out-of-fold answers, and the probabilities are averaged then. Members
    that are calibrated each for itself make an ensemble that is rather less sure than it is right (Rahaman and Thiery
    2021, https://arxiv.org/abs/2007.08792): it errs on the side of caution.

    Args:
      folder: workdir with a `fold_0`, `fold_1`, ... for each fold.
      folds: their number.
      say: called with a line for each result and each file a person will want to open.
    """
    workdirs = [folder / f"fold_{fold}" for fold in range(folds)]
    answers = _pool_predictions(workdirs)
    record = json.loads((workdirs[0] / "run.json").read_text())
    synthetic = bool(record["data"]["synthetic"])
    notice = SYNTHETIC_NOTICE if synthetic else None
    temperatures = np.array(
        [_fit_temperature(answers, answers.folds != fold) for fold in range(folds)]
    )  # [folds], each fitted on the others
    before = calibration.softmax(answers.logits)
    after = calibration.softmax(answers.logits, temperatures[answers.folds][:, None])
    patients = Patients(answers.groups, record["data"]["grouping"])

    result = split_report.write_split_report(
        folder / "report" / SPLIT,
        split=SPLIT,
        paths=answers.paths,
        labels=answers.labels,
        probabilities=after,
        class_names=answers.class_names,
        leaked=answers.leaked,
        patients=patients,
        change=Calibration(
            uncalibrated=before, temperature=None, fitted_on="the validation images of the other folds", biased=False
        ),
        notice=notice,
    )
    ensemble = Temperature(
        value=_fit_temperature(answers, np.ones(len(answers.labels), bool)),
        fitted_on=f"the {len(answers.labels)} out-of-fold answers of {folds} folds",
        images=len(answers.labels),
    )
    calibration.write(folder, ensemble)
    facts = _collect_facts(workdirs, record, ensemble)
    recalls = _read_probe_recalls(workdirs) if record["data"].get("probe") else []
    if recalls:
        facts["shift_probe"] = (
            f"recall {np.mean(recalls):.3f} on average over the networks ({min(recalls):.3f} to {max(recalls):.3f}), "
            f"on images of {record['data']['probe']}, which were kept from training"
        )
        say(f"shift probe: {facts['shift_probe']}")
    card = folder / "report" / "model_card.md"
    model_card.write_model_card(card, facts=facts, metrics={SPLIT: result}, notice=notice)

    summary: dict[str, Any] = {"schema": SCHEMA, "folds": folds, "synthetic": synthetic, "notice": notice}
    if recalls:
        spread = {"mean": float(np.mean(recalls)), "min": min(recalls), "max": max(recalls)}
        summary["shift_probe"] = {"of": record["data"]["probe"], "recall": spread, "recalls": recalls}
    scores = [_score_fold(answers, after, fold) for fold in range(folds)]
    for name in _SPREAD:
        values = [score[name] for score in scores if score[name] is not None]
        summary[name] = {"mean": float(np.mean(values)), "min": min(values), "max": max(values)} if values else None
        if values:
            say(f"{name} over {folds} folds: {np.mean(values):.3f} ({min(values):.3f} to {max(values):.3f})")
    summary["pooled"] = {
        **_select_scores(result),
        "caution": result["caution"],
        "subsets": {name: _select_scores(part) for name, part in result["subsets"].items()},
    }
    summary["calibration"] = {
        **result["calibration"],
        "temperatures": temperatures,
        "ensemble_temperature": ensemble.value,
    }
    say(score_text.summarise_scores(result))
    say(f"{SPLIT}: {score_text.describe_calibration(result)}")
    if notice:
        say(f"warning: {notice}")
    say(f"report: {card}")
    files.write_json(folder / FILE, summary)


def _pool_predictions(workdirs: list[pathlib.Path]) -> OutOfFold:
    """The answers that the folds' reports hold."""
    rows: list[tuple[str, str, int, np.ndarray, bool, str]] = []
    class_names: tuple[str, ...] = ()
    for fold, workdir_ in enumerate(workdirs):
        step, _ = checkpoint.read_best_metadata(workdir_)
        temperature = calibration.read(workdir_, step=step)
        assert temperature is not None  # written with the report
        folder = workdir_ / "report" / "validation"
        predictions, images = _table(folder / "predictions.csv"), _table(folder / "images.csv")
        class_names = tuple(predictions[0])[3:]
        for row, image in zip(predictions, images, strict=True):
            probabilities = np.array([row[name] for name in class_names], np.float64)
            logits = temperature.value * np.log(np.maximum(probabilities, _SMALLEST))
            rows.append((row["path"], row["label"], fold, logits, image["leaked"] == "1", image["patient"]))
    rows.sort(key=lambda row: row[0])
    paths, labels, folds, logits_, leaked, groups = zip(*rows, strict=True)
    return OutOfFold(
        class_names=class_names,
        paths=list(paths),
        labels=np.array([class_names.index(label) for label in labels]),
        logits=np.stack(logits_),
        folds=np.array(folds),
        leaked=np.array(leaked, bool),
        groups=list(groups),
    )


def _read_probe_recalls(workdirs: list[pathlib.Path]) -> list[float]:
    """The recall of each fold's network on the shift probe, clean images alone if there are any."""
    found = []
    for workdir_ in workdirs:
        result = json.loads((workdir_ / "report" / shift_probe.SPLIT / "metrics.json").read_text())
        shown = result["subsets"]["clean"] if result["subsets"]["clean"]["n"] else result
        found += [float(row["recall"]) for row in shown["per_class"].values() if row["support"]]
    return found


def _fit_temperature(answers: OutOfFold, rows: np.ndarray) -> float:
    return calibration.fit(answers.logits[rows], answers.labels[rows])


def _score_fold(answers: OutOfFold, probabilities: np.ndarray, fold: int) -> dict[str, Any]:
    rows = answers.folds == fold
    return classification.score(
        split=f"fold_{fold}",
        labels=answers.labels[rows],
        probabilities=probabilities[rows],
        class_names=answers.class_names,
    )


def _select_scores(result: dict[str, Any]) -> dict[str, Any]:
    return {name: result[name] for name in _POOLED}


def _collect_facts(
    workdirs: list[pathlib.Path], record: dict[str, Any], ensemble: Temperature
) -> model_card.ModelFacts:
    """What the card of the ensemble says, from the record of the first fold and the times of all."""
    _, metadata = checkpoint.read_best_metadata(workdirs[0])
    model = metadata["model"]
    records = [
        run_folder.RunRecord(path / "run.json", json.loads((path / "run.json").read_text())) for path in workdirs
    ]
    return {
        "title": f"{model['name']}, cross-validation over {len(workdirs)} folds",
        "model": f"mean of {len(workdirs)} networks: {model['name']} at {model['preprocessing']['size']} pixels",
        "weights": model["weights"],
        "data_source": record["data"]["source"],
        "provenance": records[0].get_provenance(),
        "synthetic": bool(record["data"]["synthetic"]),
        "kaggle_set": bool(record["data"]["kaggle_set"]),
        "classes": model["class_names"],
        "split": f"each image is scored by the network that was trained without its group; grouped: "
        f"{record['data']['grouping']}",
        "calibration": f"the {len(workdirs)} networks together divide their logits by {ensemble.value:.4f}, fitted on "
        f"{ensemble.fitted_on}. No image is unseen by all of them, so this is the temperature of one network, and "
        f"together they are rather less sure than they are right",
        "versions": records[0].content["versions"],
        "duration_s": sum(one.get_total_seconds() for one in records),
    }


def _table(path: pathlib.Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))
