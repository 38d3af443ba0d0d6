"""Classification metrics of a split, computed from labels and probabilities with NumPy.

Undefined values are None in dictionaries and NaN in arrays, never a placeholder of 0 or 1: recall, precision, F1, AUC
and average precision of a class without images; specificity and AUC of a class that all images belong to; everything of
an empty split. Precision is 0 for a class that has images and is never predicted. Macro averages are over the classes
that have images.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from bt_jax.common import files
from bt_jax.metrics import by_patient, calibration, confusion, curves
from bt_jax.metrics.by_patient import Patients
from bt_jax.metrics.calibration import Calibration

SCHEMA = 1
BOOTSTRAP_RESAMPLES = 2000
ROW_SUM_TOLERANCE = 0.01  # wide enough for bfloat16, narrow enough to notice logits
SPECIFICITIES = {"sensitivity_at_specificity_90": 0.90, "sensitivity_at_specificity_95": 0.95}

# The 95 % interval of an accuracy is up to .36 wide with 30 images, and that of a recall wider than .3 with 10. With
# fewer than 10 patients, resamples are too similar for an interval.
FEW_IMAGES, FEW_OF_A_CLASS, FEW_PATIENTS = 30, 10, 10


def score(
    *,
    split: str,
    labels: np.ndarray,
    probabilities: np.ndarray,
    class_names: Sequence[str],
    leaked: np.ndarray | None = None,
    patients: Patients | None = None,
    change: Calibration | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Computes the content of `metrics.json` as plain numbers, lists and dicts.

    Args:
      split: name of the split, for the reader.
      labels: [N] integers, the true classes. N may be 0.
      probabilities: [N, C] floats that sum to 1 along each row. The prediction is the first of the largest.
      class_names: C names in the order of the columns.
      leaked: [N] bool, True for an image with a near-duplicate among the images that the model was fitted or selected
        on. None: no image has one.
      patients: of the images; None if unknown.
      change: how the probabilities were calibrated; None: they are not calibrated.
      seed: of the bootstrap behind the intervals.

    Returns:
      `schema`, `split`, `n`, `accuracy`, `accuracy_ci95` [low, high] (over images), `loss` (unweighted cross-entropy in
      nats), `macro_f1`, `macro_precision`, `macro_recall`, `macro_specificity`, `macro_auc`, `macro_average_precision`,
      `macro_sensitivity_at_specificity_90` and `..._95`, `ece`, `ece_if_calibrated` (its mean if the probabilities were
      correct), `confusion_matrix` (rows true), `per_class` {name: precision,
      recall, f1, specificity, auc, average_precision, sensitivity_at_specificity_90 and ..._95, support},
      `calibration` (null, or `temperature`, `fitted_on`, `biased`, and `ece` and `loss` as `ece_before`, `ece_after`,
      `loss_before`, `loss_after`), `patients` (null, or see `by_patient.score`); `caution` (null, or why the clean
      images do not suffice); and `subsets` with the same fields, except the caution, for the `clean` and the `leaked`
      images.

    Raises:
      ValueError: shapes do not match, labels are out of range, or values are not probabilities.
    """
    labels, probabilities = _check(labels, probabilities)
    if probabilities.shape[1] != len(class_names) or len(set(class_names)) != len(class_names):
        raise ValueError(f"{probabilities.shape[1]} columns of probabilities need as many different class names")
    leaked = np.zeros(len(labels), bool) if leaked is None else np.asarray(leaked, bool)
    if leaked.shape != labels.shape:
        raise ValueError(f"leaked has shape {leaked.shape}, labels have {labels.shape}")
    if patients is not None and len(patients.groups) != len(labels):
        raise ValueError(f"{len(patients.groups)} images have a patient, {len(labels)} a label")
    before = _check(labels, change.uncalibrated)[1] if change else probabilities

    def measure_rows(rows: np.ndarray) -> dict[str, Any]:
        y, p = labels[rows], probabilities[rows]
        return {
            "schema": SCHEMA,
            "split": split,
            **_compute_measures(y, p, class_names, seed),
            "calibration": _compare_calibration(change, y, before[rows], p) if change else None,
            "patients": by_patient.score(
                patients.select(rows), labels=y, probabilities=p, class_names=class_names, seed=seed
            )
            if patients
            else None,
        }

    result = measure_rows(np.ones(len(labels), bool))
    result["subsets"] = {"clean": measure_rows(~leaked), "leaked": measure_rows(leaked)}
    plain: dict[str, Any] = files.make_json_safe({**result, "caution": describe_caution(result)})
    return plain


def describe_caution(result: Mapping[str, Any]) -> str | None:
    """Describes why the clean images of a split do not suffice for an estimate; returns None if they do.

    Args:
      result: `n`, `per_class` and `subsets`, of `score`.
    """
    n, clean = result["n"], result["subsets"]["clean"]
    if not n:
        return "There are no images: nothing was measured."
    if not clean["n"]:
        return (
            f"No clean image is left: {'the only image has' if n == 1 else f'all {n} images have'} a near-duplicate "
            f"among the images that the model was trained on. The scores measure memory, not generalisation."
        )
    if clean["n"] < FEW_IMAGES:
        count = f"only {clean['n']} of {n} images {'is' if clean['n'] == 1 else 'are'} clean"
        if clean["n"] == n:
            count = f"there {'is only 1 image' if n == 1 else f'are only {n} images'}"
        return f"{count[0].upper()}{count[1:]}: too few for reliable scores."
    of_patients = clean["patients"]["n"] if clean["patients"] else FEW_PATIENTS
    if of_patients < FEW_PATIENTS:
        whose = f"{clean['n']} {'' if clean['n'] == n else 'clean '}images"
        return (
            f"The {whose} are of only {of_patients} patient{'' if of_patients == 1 else 's'}: "
            "too few for reliable scores."
        )
    if clean["n"] == n:
        return None
    left = {name: row["support"] for name, row in clean["per_class"].items() if result["per_class"][name]["support"]}
    scarce = [
        f"{'none is' if not count else 'only 1 is' if count == 1 else f'only {count} are'} of {name}"
        for name, count in left.items()
        if count < FEW_OF_A_CLASS
    ]
    if not scarce:
        return None
    return f"Of the {clean['n']} clean images {', '.join(scarce)}: too few for reliable scores of these classes."


def _check(labels: np.ndarray, probabilities: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    labels, probabilities = np.asarray(labels), np.asarray(probabilities).astype(np.float64)
    if probabilities.ndim != 2 or probabilities.shape[1] < 1 or labels.shape != probabilities.shape[:1]:
        raise ValueError(f"labels {labels.shape} must be [N] and probabilities {probabilities.shape} [N, C]")
    if labels.size and labels.dtype.kind not in "iu":
        raise ValueError(f"labels must be integers, not {labels.dtype}")
    labels = labels.astype(np.int64)
    if labels.size and not 0 <= labels.min() <= labels.max() < probabilities.shape[1]:
        raise ValueError(f"labels must lie between 0 and {probabilities.shape[1] - 1}")
    in_range = (probabilities >= 0) & (probabilities <= 1 + ROW_SUM_TOLERANCE)
    if not in_range.all() or (abs(probabilities.sum(axis=1) - 1) > ROW_SUM_TOLERANCE).any():
        raise ValueError("probabilities must lie between 0 and 1 and sum to 1 along each row")
    return labels, probabilities


def _compute_measures(
    labels: np.ndarray, probabilities: np.ndarray, class_names: Sequence[str], seed: int
) -> dict[str, Any]:
    n, C = probabilities.shape
    matrix = confusion.count_confusions(labels, probabilities.argmax(axis=1), C)
    measures = confusion.compute_measures(matrix)
    one_against_rest = [(labels == c, probabilities[:, c]) for c in range(C)]
    columns = {
        "precision": measures.precision,
        "recall": measures.recall,
        "f1": measures.f1,
        "specificity": measures.specificity,
        "auc": np.array([curves.area_under_roc(*one) for one in one_against_rest]),
        "average_precision": np.array([curves.average_precision(*one) for one in one_against_rest]),
    } | {
        name: np.array([curves.sensitivity_at_specificity(*one, specificity=least) for one in one_against_rest])
        for name, least in SPECIFICITIES.items()
    }
    accuracy = float(measures.accuracy)
    return {
        "n": n,
        "accuracy": accuracy,
        "accuracy_ci95": _bootstrap_accuracy(accuracy, n, seed),
        "loss": calibration.cross_entropy(labels, probabilities),
        **{f"macro_{name}": measures.macro(values) for name, values in columns.items()},
        "ece": calibration.expected_calibration_error(labels, probabilities),
        "ece_if_calibrated": calibration.estimate_error_if_calibrated(probabilities, seed=seed),
        "confusion_matrix": matrix,
        "per_class": {
            name: {**{column: values[c] for column, values in columns.items()}, "support": measures.support[c]}
            for c, name in enumerate(class_names)
        },
    }


def _bootstrap_accuracy(accuracy: float, n: int, seed: int) -> tuple[float, float]:
    if not n:
        return np.nan, np.nan
    # The number of correct images in a resample of N with replacement is binomial, so no images need to be drawn.
    resampled = np.random.default_rng(seed).binomial(n, accuracy, BOOTSTRAP_RESAMPLES) / n
    low, high = np.percentile(resampled, (2.5, 97.5))
    return float(low), float(high)


def _compare_calibration(
    change: Calibration, labels: np.ndarray, before: np.ndarray, after: np.ndarray
) -> dict[str, Any]:
    measures = {"ece": calibration.expected_calibration_error, "loss": calibration.cross_entropy}
    return {
        "temperature": change.temperature,
        "fitted_on": change.fitted_on,
        "biased": change.biased,
        **{
            f"{name}_{when}": measure(labels, probabilities)
            for name, measure in measures.items()
            for when, probabilities in (("before", before), ("after", after))
        },
    }
