"""Writes the report of a scored split: tables and pictures."""

import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from bt_jax.common import files
from bt_jax.metrics import classification
from bt_jax.metrics.by_patient import Patients
from bt_jax.metrics.calibration import Calibration
from bt_jax.reports import plots, score_text


def write_split_report(
    directory: files.Path,
    *,
    split: str,
    paths: Sequence[str],
    labels: np.ndarray,
    probabilities: np.ndarray,
    class_names: Sequence[str],
    leaked: np.ndarray | None = None,
    patients: Patients | None = None,
    known: np.ndarray | None = None,
    change: Calibration | None = None,
    notice: str | None = None,
) -> dict[str, Any]:
    """Scores a split and writes its report into one folder.

    The files are `metrics.json`, `predictions.csv`, `images.csv` (for each image its patient, if known, and whether it
    is leaked and its patient has a name in the data), `classification_report.txt`, `confusion_matrix.png`,
    `roc_curves.png` and `calibration.png`. Each is replaced atomically. An empty split has all of them too. If images
    leak, the pictures show only the clean ones. If too few clean images are left, they show all images and say so.

    Args:
      directory: the folder; it is created if missing.
      split: name of the split.
      paths: N paths relative to the data folder.
      labels: [N] integers, the true classes.
      probabilities: [N, C] floats that sum to 1 along each row.
      class_names: C names in the order of the columns.
      leaked: [N] bool, whether an image has a near-duplicate in training or validation. None: no image has one.
      patients: which images are of one patient; None if unknown.
      known: [N] bool, whether the patient of an image has a name in the data; None: not looked up.
      change: the probabilities before calibration; None: they are not calibrated.
      notice: a warning for every picture and the text, such as that the images are synthetic.

    Returns:
      The content of `metrics.json`, see `classification.score`.

    Raises:
      ValueError: the arguments have inconsistent lengths or shapes, see `classification.score`.
    """
    directory = pathlib.Path(directory)
    labels, probabilities = np.asarray(labels), np.asarray(probabilities)
    leaked = np.zeros(len(labels), bool) if leaked is None else np.asarray(leaked, bool)
    if len(paths) != len(labels):
        raise ValueError(f"{len(paths)} paths for {len(labels)} labels")
    result = classification.score(
        split=split,
        labels=labels,
        probabilities=probabilities,
        class_names=class_names,
        leaked=leaked,
        patients=patients,
        change=change,
    )
    files.write_json(directory / "metrics.json", result)
    predictions = probabilities.argmax(axis=1)
    rows = (
        # Nine digits distinguish any two float32 values.
        [path, class_names[label], class_names[prediction], *(f"{p:.9g}" for p in row)]
        for path, label, prediction, row in zip(paths, labels, predictions, probabilities, strict=True)
    )
    files.write_csv(directory / "predictions.csv", ["path", "label", "prediction", *class_names], rows)
    groups = patients.groups if patients else [""] * len(labels)
    named = [""] * len(labels) if known is None else np.asarray(known, bool).astype(int)
    files.write_csv(
        directory / "images.csv",
        ["path", "patient", "leaked", "known_patient"],
        zip(paths, groups, leaked.astype(int), named, strict=True),
    )
    text = score_text.format_classification_report(result)
    files.write_text(directory / "classification_report.txt", f"{notice}\n\n{text}" if notice else text)

    clean = result["subsets"]["clean"]
    alone = bool(leaked.any()) and clean["n"] >= classification.FEW_IMAGES
    shown, drawn = (clean, ~leaked) if alone else (result, np.ones(len(leaked), bool))
    where = (
        f"{split}, {shown['n']:,} clean images" if alone else f"{split}, {score_text.format_image_count(result['n'])}"
    )
    if leaked.any() and not alone:
        where += f", {leaked.sum()} of them leaked"
    caution = f"\n{result['caution']}" if result["caution"] else ""
    accuracy = (
        f"\naccuracy {score_text.format_score(shown['accuracy'])} "
        f"(95 % interval {score_text.format_accuracy_interval(shown)})"
        if clean["n"] >= classification.FEW_IMAGES
        else ""
    )
    plots.draw_confusion_matrix(
        directory / "confusion_matrix.png",
        metrics=shown,
        class_names=class_names,
        title=f"Confusion matrix: {where}{accuracy}{caution}",
        notice=notice,
    )
    plots.draw_roc_curves(
        directory / "roc_curves.png",
        labels=labels[drawn],
        probabilities=probabilities[drawn],
        class_names=class_names,
        title=f"ROC curves, one class against the rest: {where}{caution}",
        notice=notice,
    )
    plots.draw_calibration(
        directory / "calibration.png",
        labels=labels[drawn],
        probabilities=probabilities[drawn],
        uncalibrated=change.uncalibrated[drawn] if change else None,
        title=f"Calibration: {where}{_describe_calibration(change)}{caution}",
        notice=notice,
    )
    return result


def _describe_calibration(change: Calibration | None) -> str:
    if change is None:
        return ""
    temperature = "one temperature per fold" if change.temperature is None else f"temperature {change.temperature:.3f}"
    too_low = "\n(these images, so the error after calibration is optimistic)" if change.biased else ""
    return f"\nbefore and after calibration: {temperature}, fitted on {change.fitted_on}{too_low}"
