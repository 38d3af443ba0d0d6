"""The scores of a split as text: one line for the terminal, and aligned tables. Clean images come first."""

from collections.abc import Mapping
from typing import Any

from bt_jax.metrics import classification

_COLUMNS = {
    "precision": "precision",
    "recall": "recall",
    "f1": "f1-score",
    "specificity": "specificity",
    "auc": "AUC",
    "average_precision": "PR-AUC",
    **{name: f"sens@sp{least:.2f}".replace("0.", ".") for name, least in classification.SPECIFICITIES.items()},
}
_CLEAN = "without a near-duplicate in training or validation"
_LEAKED = "with a near-duplicate in training or validation, so they measure memorisation"


def summarise_scores(result: Mapping[str, Any]) -> str:
    """Formats the result of `classification.score` as one line."""
    clean, leaked = result["subsets"]["clean"], result["subsets"]["leaked"]
    if not leaked["n"]:
        parts = [_summarise_subset(result)]
    elif clean["n"]:
        parts = [f"clean: {_summarise_subset(clean)}", f"leaked: {_summarise_subset(leaked)}"]
    else:
        parts = [f"leaked: {_summarise_subset(leaked)}"]
    # A caution qualifies the numbers, so it stands before them.
    return f"{result['split']}: " + " ".join(
        part for part in (result["caution"], "; ".join(part for part in parts if part)) if part
    )


def format_classification_report(result: Mapping[str, Any]) -> str:
    """Formats the result of `classification.score` as aligned tables: clean images, leaked images, then all."""
    split, subsets = result["split"], result["subsets"]
    clean, leaked = (format_image_count(subsets[name]["n"]) for name in ("clean", "leaked"))
    parts = [f"CAUTION: {result['caution']}"] if result["caution"] else []
    if subsets["leaked"]["n"]:
        if subsets["clean"]["n"]:
            parts.append(_format_class_table(subsets["clean"], f"{split}, clean: {clean} {_CLEAN}"))
        parts.append(_format_class_table(subsets["leaked"], f"{split}, leaked: {leaked} {_LEAKED}"))
        if subsets["clean"]["n"]:
            together = f"{split}, clean and leaked together: {format_image_count(result['n'])}"
            parts.append(_format_class_table(result, together))
    else:
        parts.append(_format_class_table(result, f"{split}: {format_image_count(result['n'])}"))
    return "\n\n".join(parts) + "\n"


def format_image_count(n: int) -> str:
    """Returns `1 image` or `1,234 images`."""
    return "1 image" if n == 1 else f"{n:,} images"


def format_score(value: float | None) -> str:
    """Returns three decimals, and a dash for an undefined score."""
    return "-" if value is None else f"{value:.3f}"


def format_interval(limits: tuple[float | None, float | None]) -> str:
    """Returns `0.873 to 0.925`, and a dash for an undefined interval."""
    low, high = limits
    return "-" if low is None or high is None else f"{low:.3f} to {high:.3f}"


def format_accuracy_interval(result: Mapping[str, Any]) -> str:
    """Formats the 95 % interval of the accuracy over images.

    It resamples patients if they are known, and images otherwise. A few images get no interval: if all of them are
    wrong, so is every resample, and the interval would be too narrow.
    """
    if result["n"] < classification.FEW_IMAGES:
        return "too few images"
    if not result["patients"]:
        return format_interval(result["accuracy_ci95"])
    return format_patient_interval(result["patients"], result["patients"]["image_intervals"]["accuracy"])


def format_patient_interval(patients: Mapping[str, Any], limits: tuple[float | None, float | None]) -> str:
    """Formats an interval from resampled patients, if there are enough patients."""
    return "too few patients" if patients["n"] < classification.FEW_PATIENTS else format_interval(limits)


def describe_calibration(result: Mapping[str, Any]) -> str:
    """Describes the expected calibration error (ECE) before and after calibration, and how much of it is chance."""
    change = result["calibration"]
    chance = f"; a perfectly calibrated model would show about {format_score(result['ece_if_calibrated'])} by chance"
    if change is None:
        error = format_score(result["ece"])
        return f"expected calibration error: {error}; no temperature is stored with the model{chance}"
    fitted = f"fitted on {change['fitted_on']}"
    temperature = fitted if change["temperature"] is None else f"temperature {change['temperature']:.3f}, {fitted}"
    biased = (
        "; the temperature was fitted on these images, so the value after is optimistic" if change["biased"] else ""
    )
    return (
        f"expected calibration error: {format_score(change['ece_before'])} before and "
        f"{format_score(change['ece_after'])} after calibration ({temperature}){biased}{chance}"
    )


def describe_shift_probe(result: Mapping[str, Any], *, of: str) -> str:
    """Describes the recall on a shift probe, and which classes the other images were predicted as.

    Args:
      result: of `classification.score` on images of one class.
      of: describes the images, such as `meningioma_tumor without a known patient`.
    """
    shown = result["subsets"]["clean"] if result["subsets"]["clean"]["n"] else result
    label, own = next((name, row) for name, row in shown["per_class"].items() if row["support"])
    names = list(shown["per_class"])
    counts = dict(zip(names, shown["confusion_matrix"][names.index(label)], strict=True))
    wrong = sorted(((count, name) for name, count in counts.items() if name != label and count), reverse=True)
    limits = format_patient_interval(shown["patients"], shown["patients"]["image_intervals"]["recall"][label])
    leaked = result["subsets"]["leaked"]["n"] if shown is not result else 0
    return (
        f"recall {format_score(own['recall'])} (95 % interval {limits}) on {format_image_count(shown['n'])} of {of}, "
        f"which were excluded from training"
        + ("; predicted as " + ", ".join(f"{name} {count}" for count, name in wrong) if wrong else "")
        + (f"; excludes {format_image_count(leaked)} with a near-duplicate in training or validation" if leaked else "")
    )


def describe_patients(patients: Mapping[str, Any]) -> str:
    """Describes how images were grouped by patient, and how many patients have images of several classes."""
    mixed = patients["several_labels"]
    verbs = ("has", "counts") if mixed == 1 else ("have", "count")
    return f"grouping by patient: {patients['grouping']}; images of unknown patients are grouped by similarity" + (
        f"; {mixed} {verbs[0]} images of several classes and {verbs[1]} for the most frequent one" if mixed else ""
    )


def _summarise_subset(result: Mapping[str, Any]) -> str:
    if not result["n"]:
        return ""
    of_patients = f" of {_format_patient_count(result['patients']['n'])}" if result["patients"] else ""
    if result["n"] < classification.FEW_IMAGES:
        correct = sum(row[c] for c, row in enumerate(result["confusion_matrix"]))
        return f"{format_image_count(result['n'])}{of_patients}, {correct} correct"
    limits = format_accuracy_interval(result)
    over = "over patients " if result["patients"] else ""
    known = limits if limits.startswith("too few") else f"95 % interval {over}{limits}"
    return (
        f"{format_image_count(result['n'])}{of_patients}, accuracy {format_score(result['accuracy'])} ({known}), "
        f"macro-F1 {format_score(result['macro_f1'])}"
    )


def _format_patient_count(n: int) -> str:
    return "1 patient" if n == 1 else f"{n:,} patients"


def _format_class_table(result: Mapping[str, Any], heading: str) -> str:
    per_class: Mapping[str, Mapping[str, Any]] = result["per_class"]
    width = max(len(name) for name in (*per_class, "weighted avg"))
    weighted = {
        column: sum(row[column] * row["support"] for row in per_class.values() if row["support"]) / result["n"]
        if result[f"macro_{column}"] is not None
        else None
        for column in _COLUMNS
    }

    def format_line(name: str, values: Mapping[str, float | None], support: int) -> str:
        cells = (format_score(values[column]) if column in values else "" for column in _COLUMNS)
        return f"{name:>{width}}" + "".join(f"{cell:>13}" for cell in cells) + f"{support:>10}"

    return "\n".join(
        [
            heading,
            "",
            " " * width + "".join(f"{title:>13}" for title in _COLUMNS.values()) + f"{'support':>10}",
            "",
            *(format_line(name, row, row["support"]) for name, row in per_class.items()),
            "",
            format_line("accuracy", {"f1": result["accuracy"]}, result["n"]),
            format_line("macro avg", {column: result[f"macro_{column}"] for column in _COLUMNS}, result["n"]),
            format_line("weighted avg", weighted, result["n"]),
            "",
            *_describe_intervals(result),
        ]
    )


def _describe_intervals(result: Mapping[str, Any]) -> list[str]:
    lines = [f"95 % interval of the accuracy: {format_accuracy_interval(result)}"]
    if (patients := result["patients"]) and result["n"] >= classification.FEW_IMAGES:
        intervals = patients["image_intervals"]
        macro_f1 = format_patient_interval(patients, intervals["macro_f1"])
        own = {name: format_patient_interval(patients, patients[f"{name}_ci95"]) for name in ("accuracy", "macro_f1")}
        lines = [
            f"95 % intervals from resampling {_format_patient_count(patients['n'])} with all their images: accuracy "
            f"{format_accuracy_interval(result)}, macro-F1 {macro_f1}",
            "(from resampling single images, which is too narrow if several images are of one patient: accuracy "
            f"{format_interval(result['accuracy_ci95'])})",
            f"by patient, from the mean probabilities of the patient's images: accuracy "
            f"{format_score(patients['accuracy'])} ({own['accuracy']}), "
            f"macro-F1 {format_score(patients['macro_f1'])} ({own['macro_f1']})",
            describe_patients(patients),
        ]
    return [*lines, describe_calibration(result), f"cross-entropy: {format_score(result['loss'])}"]
