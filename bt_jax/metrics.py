"""The numbers of a scored split, from labels and probabilities with NumPy alone.

What is undefined is None in dictionaries and NaN in arrays, never a made-up 0 or 1: recall, precision, F1 and AUC of a
class without images, specificity and AUC of a class that all images belong to, everything of an empty split. Precision
of a class that has images and is never predicted is 0. Macro averages run over the classes that have images.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from bt_jax import files

SCHEMA = 1
BOOTSTRAP_RESAMPLES = 2000
CALIBRATION_BINS = 15  # Guo et al. 2017, https://arxiv.org/abs/1706.04599
ROW_SUM_TOLERANCE = 0.01  # wide enough for bfloat16, narrow enough to notice logits

_COLUMNS = ("precision", "recall", "f1", "specificity", "auc")
_SHOWN_AS = {"f1": "f1-score", "auc": "AUC"}


def score(
    *,
    split: str,
    labels: np.ndarray,
    probabilities: np.ndarray,
    class_names: Sequence[str],
    leaked: np.ndarray | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Everything `metrics.json` holds, as plain numbers, lists and dicts.

    Args:
      split: name of the split, for the reader.
      labels: [N] integers, the true classes. N = 0 is fine.
      probabilities: [N, C] floats that sum to 1 along each row. The prediction is the first of the largest.
      class_names: C names in the order of the columns.
      leaked: [N] bool, True for an image with a twin among the images the model was fitted or chosen on. None: no
        image has one.
      seed: of the bootstrap behind `accuracy_ci95`.

    Returns:
      `schema`, `split`, `n`, `accuracy`, `accuracy_ci95` [low, high], `loss` (unweighted cross-entropy in nats),
      `macro_f1`, `macro_precision`, `macro_recall`, `macro_specificity`, `macro_auc`, `ece`, `confusion_matrix` (rows
      true), `per_class` {name: precision, recall, f1, specificity, auc, support}, and `subsets` with the same fields
      for the `clean` and the `leaked` images.

    Raises:
      ValueError: shapes that do not fit, labels out of range, values that are no probabilities.
    """
    labels, probabilities = _checked(labels, probabilities)
    if probabilities.shape[1] != len(class_names) or len(set(class_names)) != len(class_names):
        raise ValueError(f"{probabilities.shape[1]} columns of probabilities need as many different class names")
    leaked = np.zeros(len(labels), bool) if leaked is None else np.asarray(leaked, bool)
    if leaked.shape != labels.shape:
        raise ValueError(f"leaked has shape {leaked.shape}, labels have {labels.shape}")

    def measured(rows: np.ndarray | slice) -> dict[str, Any]:
        measures = _measures(labels[rows], probabilities[rows], class_names, seed)
        return {"schema": SCHEMA, "split": split, **measures}

    subsets = {"clean": measured(~leaked), "leaked": measured(leaked)}
    plain: dict[str, Any] = files.finite({**measured(slice(None)), "subsets": subsets})
    return plain


def calibration_bins(
    labels: np.ndarray, probabilities: np.ndarray, bins: int = CALIBRATION_BINS
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Confidence and accuracy of the prediction, in bins of equal width.

    Bin i holds the images whose largest probability lies in (i / bins, (i + 1) / bins].

    Args:
      labels: [N] integers.
      probabilities: [N, C] floats.
      bins: number of bins between 0 and 1.

    Returns:
      Mean confidence [bins] and accuracy [bins] as float64, NaN where a bin is empty, and the number of images [bins]
      as int64.
    """
    labels, probabilities = _checked(labels, probabilities)
    confidence = probabilities.max(axis=1)
    correct = probabilities.argmax(axis=1) == labels
    edges = np.linspace(0, 1, bins + 1)
    index = np.clip(np.searchsorted(edges, confidence, side="left") - 1, 0, bins - 1)
    count = np.bincount(index, minlength=bins)
    mean_confidence = _divide(np.bincount(index, weights=confidence, minlength=bins), count)
    accuracy = _divide(np.bincount(index, weights=correct, minlength=bins), count)
    return mean_confidence, accuracy, count


def expected_calibration_error(labels: np.ndarray, probabilities: np.ndarray, bins: int = CALIBRATION_BINS) -> float:
    """Mean distance of confidence and accuracy over the images, bin by bin; NaN without images."""
    confidence, accuracy, count = calibration_bins(labels, probabilities, bins)
    return float(np.nansum(count * abs(accuracy - confidence)) / count.sum()) if count.sum() else np.nan


def roc_curve(is_positive: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """False and true positive rates from (0, 0) to (1, 1), one point for each distinct score.

    Args:
      is_positive: [N] bool.
      scores: [N] floats, higher for positives.

    Returns:
      False positive rates [K + 1] and true positive rates [K + 1] as float64, for K distinct scores.

    Raises:
      ValueError: no positive or no negative image, or shapes that differ.
    """
    is_positive, scores = np.asarray(is_positive, bool), np.asarray(scores, np.float64)
    if is_positive.shape != scores.shape or is_positive.ndim != 1:
        raise ValueError(f"is_positive {is_positive.shape} and scores {scores.shape} must be [N]")
    if is_positive.all() or not is_positive.any():
        raise ValueError("a ROC curve needs positive and negative images")
    order = np.argsort(-scores, kind="stable")
    last_of_ties = np.append(np.diff(scores[order]) != 0, True)
    true = np.cumsum(is_positive[order])[last_of_ties]
    false = np.cumsum(~is_positive[order])[last_of_ties]
    return np.append(0, false) / false[-1], np.append(0, true) / true[-1]


def classification_report(metrics: Mapping[str, Any]) -> str:
    """The result of `score` as an aligned table for a terminal; the subsets follow where images leak."""
    parts = [_table(metrics, f"{metrics['split']}: {_images(metrics['n'])}")]
    subsets = metrics.get("subsets", {})
    if subsets and subsets["leaked"]["n"]:
        for name, meaning in (
            ("clean", "no twin among the images of training and validation"),
            ("leaked", "a twin among the images of training or validation"),
        ):
            parts.append(_table(subsets[name], f"{metrics['split']}, {name}: {_images(subsets[name]['n'])}, {meaning}"))
    return "\n\n".join(parts) + "\n"


def _checked(labels: np.ndarray, probabilities: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
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


def _measures(labels: np.ndarray, probabilities: np.ndarray, class_names: Sequence[str], seed: int) -> dict[str, Any]:
    n, C = probabilities.shape
    predictions = probabilities.argmax(axis=1)
    matrix = np.bincount(labels * C + predictions, minlength=C * C).reshape(C, C)  # [C true, C predicted]
    correct, support, predicted = matrix.diagonal(), matrix.sum(axis=1), matrix.sum(axis=0)
    supported = support > 0
    negatives = n - support

    def macro(values: np.ndarray) -> float:
        return float(values[supported].mean()) if n else np.nan

    columns = {
        "precision": np.where(supported, _divide(correct, predicted, undefined=0.0), np.nan),
        "recall": _divide(correct, support),
        "f1": np.where(supported, _divide(2 * correct, support + predicted), np.nan),
        "specificity": _divide(negatives - (predicted - correct), negatives),
        "auc": np.array([_auc(labels == c, probabilities[:, c]) for c in range(C)]),
    }
    accuracy = correct.sum() / n if n else np.nan
    # As in scikit-learn: one probability that underflowed to 0 costs 36 nats and not an infinite mean.
    likelihood = np.clip(probabilities[np.arange(n), labels], np.finfo(np.float64).eps, 1)
    return {
        "n": n,
        "accuracy": accuracy,
        "accuracy_ci95": _accuracy_interval(accuracy, n, seed),
        "loss": np.log(1 / likelihood).mean() if n else np.nan,
        **{f"macro_{name}": macro(values) for name, values in columns.items()},
        "ece": expected_calibration_error(labels, probabilities),
        "confusion_matrix": matrix,
        "per_class": {
            name: {**{column: values[c] for column, values in columns.items()}, "support": support[c]}
            for c, name in enumerate(class_names)
        },
    }


def _divide(numerator: np.ndarray, denominator: np.ndarray, undefined: float = np.nan) -> np.ndarray:
    return np.divide(numerator, denominator, out=np.full(len(denominator), undefined), where=denominator > 0)


def _accuracy_interval(accuracy: float, n: int, seed: int) -> tuple[float, float]:
    if not n:
        return np.nan, np.nan
    # The number of right images in a resample of N with replacement is binomial: no need to draw the images.
    resampled = np.random.default_rng(seed).binomial(n, accuracy, BOOTSTRAP_RESAMPLES) / n
    low, high = np.percentile(resampled, (2.5, 97.5))
    return float(low), float(high)


def _auc(is_positive: np.ndarray, scores: np.ndarray) -> float:
    """Probability that a positive outranks a negative, a tie counting half (Mann-Whitney U from average ranks)."""
    positives = int(is_positive.sum())
    negatives = len(is_positive) - positives
    if not positives or not negatives:
        return np.nan
    _, inverse, count = np.unique(scores, return_inverse=True, return_counts=True)
    average_rank = np.cumsum(count) - (count - 1) / 2
    rank_sum = average_rank[inverse][is_positive].sum()
    return float((rank_sum - positives * (positives + 1) / 2) / (positives * negatives))


def _images(n: int) -> str:
    return "1 image" if n == 1 else f"{n} images"


def _table(metrics: Mapping[str, Any], heading: str) -> str:
    per_class: Mapping[str, Mapping[str, Any]] = metrics["per_class"]
    width = max(len(name) for name in (*per_class, "weighted avg"))
    weighted = {
        column: sum(row[column] * row["support"] for row in per_class.values() if row["support"]) / metrics["n"]
        if metrics[f"macro_{column}"] is not None
        else None
        for column in _COLUMNS
    }

    def line(name: str, values: Mapping[str, float | None], support: int) -> str:
        cells = (_number(values[column]) if column in values else "" for column in _COLUMNS)
        return f"{name:>{width}}" + "".join(f"{cell:>13}" for cell in cells) + f"{support:>10}"

    low, high = (_number(bound) for bound in metrics["accuracy_ci95"])
    return "\n".join(
        [
            heading,
            "",
            " " * width + "".join(f"{_SHOWN_AS.get(column, column):>13}" for column in _COLUMNS) + f"{'support':>10}",
            "",
            *(line(name, row, row["support"]) for name, row in per_class.items()),
            "",
            line("accuracy", {"f1": metrics["accuracy"]}, metrics["n"]),
            line("macro avg", {column: metrics[f"macro_{column}"] for column in _COLUMNS}, metrics["n"]),
            line("weighted avg", weighted, metrics["n"]),
            "",
            f"95 % interval of the accuracy: {low} to {high} (bootstrap over images)",
            f"expected calibration error: {_number(metrics['ece'])}    cross-entropy: {_number(metrics['loss'])}",
        ]
    )


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
