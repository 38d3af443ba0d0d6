"""The folds of a cross-validation that nobody trained: their reports, scored together."""

import csv
import json
import pathlib
from typing import Any

import numpy as np
import pytest
import sklearn.metrics

from bt_jax.common import files
from bt_jax.data.class_labels import SYNTHETIC_NOTICE
from bt_jax.metrics import calibration
from bt_jax.metrics.by_patient import Patients
from bt_jax.metrics.calibration import Temperature
from bt_jax.reports import cross_validation, split_report
from bt_jax.workdir import checkpoint

NAMES = ("a", "b", "c")
FOLDS = 3
IMAGES = 90  # in a fold, three of each patient
STEP = 7


class Folds:
    """The workdirs and what was put into them, by fold."""

    def __init__(self, folder: pathlib.Path, *, synthetic: bool = False):
        self.folder = folder
        rng = np.random.default_rng(5)
        self.labels, self.logits, self.leaked = [], [], []
        self.known: np.ndarray | None = None
        for fold, sharpness in enumerate((3.0, 4.0, 6.0)):
            logits = 1.5 * rng.normal(size=(IMAGES, 3))
            labels = np.array([rng.choice(3, p=p) for p in calibration.softmax(logits)])
            self.labels.append(labels)
            self.logits.append(sharpness * logits)
            self.leaked.append(np.arange(IMAGES) < 2)
            self.write(fold, synthetic=synthetic)

    def write(self, fold: int, *, synthetic: bool) -> None:
        workdir = self.folder / f"fold_{fold}"
        temperature = Temperature(calibration.fit(self.logits[fold], self.labels[fold]), "its own images", IMAGES, STEP)
        calibration.write(workdir, temperature)
        split_report.write_split_report(
            workdir / "report" / "validation",
            split="validation",
            # The folds' images lie between each other in the order of paths.
            paths=[f"Training/{i:03d} {fold}.jpg" for i in range(IMAGES)],
            labels=self.labels[fold],
            probabilities=calibration.softmax(self.logits[fold], temperature.value),
            class_names=NAMES,
            leaked=self.leaked[fold],
            patients=Patients([f"{fold}-{i // 3}" for i in range(IMAGES)], "by groups.csv"),
            known=self.known,
        )
        record = {
            "data": {"source": "synthetic", "synthetic": synthetic, "kaggle_set": False, "grouping": "by groups.csv"},
            "model": {"weights_sha256": "77cc"}, "versions": {"jax": "1"}, "commit": "abc",
            "seconds": {"data": 1.0}, "seconds_by_stage": {"1": 59.0},
        }  # fmt: skip
        files.write_json(workdir / "run.json", record)

    def summarise(self) -> tuple[dict[str, Any], list[str]]:
        said: list[str] = []
        predictions = cross_validation.pool_predictions(cross_validation.list_workdirs(self.folder, FOLDS))
        ensemble = cross_validation.fit_ensemble_temperature(predictions)
        cross_validation.write(self.folder, predictions=predictions, ensemble=ensemble, folds=FOLDS, say=said.append)
        return json.loads((self.folder / "cross_validation.json").read_text()), said


@pytest.fixture(autouse=True)
def nothing_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    """No checkpoints and no pictures: only what is written for programs and readers."""
    model = {"name": "mlp", "weights": "none", "class_names": list(NAMES), "preprocessing": {"size": 32}}
    monkeypatch.setattr(checkpoint, "read_best_metadata", lambda workdir: (STEP, {"model": model}))
    for name in ("draw_confusion_matrix", "draw_roc_curves", "draw_calibration"):
        monkeypatch.setattr(split_report.plots, name, lambda path, **options: None)


def predictions(folder: pathlib.Path) -> tuple[list[str], np.ndarray]:
    with (folder / "predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    return [row["path"] for row in rows], np.array([[row[name] for name in NAMES] for row in rows], np.float64)


def test_each_fold_is_calibrated_by_the_others(tmp_path: pathlib.Path) -> None:
    folds = Folds(tmp_path)
    summary, _ = folds.summarise()
    paths, probabilities = predictions(tmp_path / "report" / "out_of_fold")
    assert paths == sorted(paths)
    assert len(paths) == FOLDS * IMAGES
    for fold in range(FOLDS):
        others = [other for other in range(FOLDS) if other != fold]
        fitted = calibration.fit(
            np.concatenate([folds.logits[other] for other in others]),
            np.concatenate([folds.labels[other] for other in others]),
        )
        assert summary["calibration"]["temperatures"][fold] == pytest.approx(fitted, rel=1e-6)
        rows = [i for i, path in enumerate(paths) if path.endswith(f" {fold}.jpg")]
        np.testing.assert_allclose(probabilities[rows], calibration.softmax(folds.logits[fold], fitted), atol=1e-6)


def test_the_pooled_scores_are_those_of_all_images(tmp_path: pathlib.Path) -> None:
    folds = Folds(tmp_path)
    summary, said = folds.summarise()
    labels, logits = np.concatenate(folds.labels), np.concatenate(folds.logits)
    pooled = summary["pooled"]
    assert pooled["n"] == FOLDS * IMAGES
    assert pooled["accuracy"] == pytest.approx((logits.argmax(1) == labels).mean())
    assert pooled["macro_f1"] == pytest.approx(sklearn.metrics.f1_score(labels, logits.argmax(1), average="macro"))
    assert pooled["patients"]["n"] == FOLDS * IMAGES // 3
    low, high = pooled["patients"]["image_intervals"]["macro_f1"]
    assert low < pooled["macro_f1"] < high
    before = calibration.expected_calibration_error(labels, calibration.softmax(logits))
    assert summary["calibration"]["ece_before"] == pytest.approx(before, abs=1e-6)
    assert summary["calibration"]["ece_after"] == pooled["ece"] < before / 2
    assert summary["calibration"]["biased"] is False
    result = json.loads((tmp_path / "report/out_of_fold/metrics.json").read_text())
    subsets = pooled.pop("subsets")
    assert {name: result[name] for name in pooled} == pooled
    assert subsets["clean"]["macro_f1"] == result["subsets"]["clean"]["macro_f1"]
    assert result["subsets"]["leaked"]["n"] == 2 * FOLDS
    assert any(line.startswith("out_of_fold: clean: 264 images of") for line in said)


def test_mean_and_range_are_those_of_the_folds(tmp_path: pathlib.Path) -> None:
    folds = Folds(tmp_path)
    summary, said = folds.summarise()
    accuracies = [(folds.logits[fold].argmax(1) == folds.labels[fold]).mean() for fold in range(FOLDS)]
    assert summary["accuracy"] == pytest.approx(
        {"mean": np.mean(accuracies), "min": min(accuracies), "max": max(accuracies)}
    )
    assert set(summary["macro_auc"]) == set(summary["ece"]) == {"mean", "min", "max"}
    assert f"accuracy over 3 folds: {np.mean(accuracies):.3f} ({min(accuracies):.3f} to" in said[0]


def test_the_ensemble_has_the_temperature_of_all_answers(tmp_path: pathlib.Path) -> None:
    folds = Folds(tmp_path)
    summary, _ = folds.summarise()
    predictions = cross_validation.pool_predictions(cross_validation.list_workdirs(tmp_path, FOLDS))
    found = cross_validation.fit_ensemble_temperature(predictions)
    expected = calibration.fit(np.concatenate(folds.logits), np.concatenate(folds.labels))
    assert found.value == pytest.approx(expected, rel=1e-6)
    assert found.value == summary["calibration"]["ensemble_temperature"]
    assert found.images == FOLDS * IMAGES


def test_the_card_tells_of_the_cross_validation(tmp_path: pathlib.Path) -> None:
    Folds(tmp_path).summarise()
    text = (tmp_path / "report" / "model_card.md").read_text()
    assert text.startswith("# mlp, cross-validation over 3 folds\n")
    for wanted in (
        "mean of 3 networks: mlp at 32 pixels", "| **Data** | synthetic |", "grouping: by groups.csv", "| 264 | ",
        "fitted on the validation images of the other folds", "the temperature of a single network",
        "(out_of_fold/predictions.csv)", "The run took 3.0 min.", "`77cc`",
    ):  # fmt: skip
        assert wanted in text
    assert "SYNTHETIC" not in text


def test_images_of_known_patients_are_scored_by_themselves(tmp_path: pathlib.Path) -> None:
    folds = Folds(tmp_path)
    summary, _ = folds.summarise()
    assert "known_patients" not in summary and not (tmp_path / "report/out_of_fold_known_patients").exists()
    folds.known = np.arange(IMAGES) % 3 > 0
    for fold in range(FOLDS):
        folds.write(fold, synthetic=False)
    summary, said = folds.summarise()
    result = json.loads((tmp_path / "report/out_of_fold_known_patients/metrics.json").read_text())
    assert result["n"] == summary["known_patients"]["n"] == FOLDS * folds.known.sum()
    paths, probabilities = predictions(tmp_path / "report" / "out_of_fold_known_patients")
    everyone, all_probabilities = predictions(tmp_path / "report" / "out_of_fold")
    np.testing.assert_array_equal(probabilities, all_probabilities[[everyone.index(path) for path in paths]])
    numbers = [int(path.removeprefix("Training/").split()[0]) for path in paths]
    assert all(number % 3 for number in numbers)
    assert any(line.startswith("out_of_fold_known_patients: ") for line in said)
    assert "out_of_fold_known_patients" in (tmp_path / "report" / "model_card.md").read_text()


def test_phantoms_are_called_synthetic(tmp_path: pathlib.Path) -> None:
    summary, said = Folds(tmp_path, synthetic=True).summarise()
    assert (summary["synthetic"], summary["notice"]) == (True, SYNTHETIC_NOTICE)
    assert f"warning: {SYNTHETIC_NOTICE}" in said
    for name in ("model_card.md", "out_of_fold/classification_report.txt"):
        assert SYNTHETIC_NOTICE in (tmp_path / "report" / name).read_text()
    real, _ = Folds(tmp_path / "real").summarise()
    assert (real["synthetic"], real["notice"]) == (False, None)


def test_the_shift_probe_of_all_folds(tmp_path: pathlib.Path) -> None:
    folds = Folds(tmp_path)
    assert "shift_probe" not in folds.summarise()[0]
    right = (6, 9, 12)  # of 12 images of the class b
    for fold, count in enumerate(right):
        record = json.loads((tmp_path / f"fold_{fold}" / "run.json").read_text())
        record["data"]["probe"] = "b from elsewhere"
        files.write_json(tmp_path / f"fold_{fold}" / "run.json", record)
        split_report.write_split_report(
            tmp_path / f"fold_{fold}" / "report" / "source_probe", split="source_probe",
            paths=[f"{i}.jpg" for i in range(15)], labels=np.ones(15, int),
            probabilities=np.eye(3)[np.where(np.arange(15) < count, 1, 0)], class_names=NAMES,
            leaked=np.arange(15) >= 12,
        )  # fmt: skip
    summary, said = folds.summarise()
    assert summary["shift_probe"] == {
        "of": "b from elsewhere", "recall": {"mean": 0.75, "min": 0.5, "max": 1.0}, "recalls": [0.5, 0.75, 1.0],
    }  # fmt: skip
    told = "mean recall 0.750 over the networks (0.500 to 1.000) on images of b from elsewhere"
    assert any(line.startswith(f"shift probe: {told}") for line in said)
    assert told.capitalize() in (tmp_path / "report" / "model_card.md").read_text()


def test_twice_the_same_bits(tmp_path: pathlib.Path) -> None:
    folds = Folds(tmp_path)
    contents = []
    for _ in range(2):
        folds.summarise()
        kept = [*(tmp_path / "report").rglob("*.*"), tmp_path / "cross_validation.json"]
        contents.append({path: path.read_bytes() for path in kept if path.is_file()})
    assert contents[0] == contents[1]
    assert len(contents[0]) == 6


def test_the_summary_is_the_last_file(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader takes it for the sign that all is there."""
    folds = Folds(tmp_path)

    def failing(*arguments: Any, **options: Any) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(cross_validation.model_card, "write_model_card", failing)
    with pytest.raises(OSError, match="no space"):
        folds.summarise()
    assert not (tmp_path / "cross_validation.json").exists()
