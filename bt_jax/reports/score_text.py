"""The scores of a split for a terminal, in a line and as tables: clean images first, or that none is left."""

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
_CLEAN = "no twin among the images that the model has seen"
_LEAKED = "a twin among the images that the model has seen: these show what it remembers"


def summarise_scores(result: Mapping[str, Any]) -> str:
    """The result of `classification.score` in a line."""
    clean, leaked = result["subsets"]["clean"], result["subsets"]["leaked"]
    if not leaked["n"]:
        parts = [_summarise_subset(result)]
    elif clean["n"]:
        parts = [f"clean: {_summarise_subset(clean)}", f"leaked: {_summarise_subset(leaked)}"]
    else:
        parts = [f"leaked: {_summarise_subset(leaked)}"]
    # Words that take the figures back belong before them.
    return f"{result['split']}: " + " ".join(
        part for part in (result["caution"], "; ".join(part for part in parts if part)) if part
    )


def format_classification_report(result: Mapping[str, Any]) -> str:
    """The result of `classification.score` as aligned tables: the clean images, then the leaked ones, then all."""
    split, subsets = result["split"], result["subsets"]
    parts = [f"CAUTION: {result['caution']}"] if result["caution"] else []
    if subsets["leaked"]["n"]:
        if subsets["clean"]["n"]:
            parts.append(
                _format_class_table(
                    subsets["clean"], f"{split}, clean: {format_image_count(subsets['clean']['n'])}, {_CLEAN}"
                )
            )
        parts.append(
            _format_class_table(
                subsets["leaked"], f"{split}, leaked: {format_image_count(subsets['leaked']['n'])}, {_LEAKED}"
            )
        )
        if subsets["clean"]["n"]:
            parts.append(
                _format_class_table(result, f"{split}, clean and leaked together: {format_image_count(result['n'])}")
            )
    else:
        parts.append(_format_class_table(result, f"{split}: {format_image_count(result['n'])}"))
    return "\n\n".join(parts) + "\n"


def format_image_count(n: int) -> str:
    """`1 image`, `1,234 images`."""
    return "1 image" if n == 1 else f"{n:,} images"


def format_score(value: float | None) -> str:
    """Three decimals, and a dash for what is undefined."""
    return "-" if value is None else f"{value:.3f}"


def format_interval(limits: tuple[float | None, float | None]) -> str:
    """`0.873 to 0.925`."""
    low, high = limits
    return "-" if low is None or high is None else f"{low:.3f} to {high:.3f}"


def format_accuracy_interval(result: Mapping[str, Any]) -> str:
    """Of the accuracy over images: with patients resampled where they are known, else with images.

    A resample of a few images that are all wrong is all wrong: an interval of them would say more than it knows.
    """
    if result["n"] < classification.FEW_IMAGES:
        return "too few images"
    if not result["patients"]:
        return format_interval(result["accuracy_ci95"])
    return format_patient_interval(result["patients"], result["patients"]["image_intervals"]["accuracy"])


def format_patient_interval(patients: Mapping[str, Any], limits: tuple[float | None, float | None]) -> str:
    """One for which patients were resampled, if there were enough of them."""
    return "too few patients" if patients["n"] < classification.FEW_PATIENTS else format_interval(limits)


def describe_calibration(result: Mapping[str, Any]) -> str:
    """How far confidence and accuracy lie apart, before and after calibration, and what that is worth."""
    change = result["calibration"]
    chance = f"; were the probabilities right, it would be about {format_score(result['ece_if_calibrated'])} by chance"
    if change is None:
        error = format_score(result["ece"])
        return f"expected calibration error: {error}, no temperature is stored with the model{chance}"
    temperature = "" if change["temperature"] is None else f" (temperature {change['temperature']:.3f})"
    biased = "; these are the images scored here, so the second is too low" if change["biased"] else ""
    return (
        f"expected calibration error: {format_score(change['ece_before'])} before and "
        f"{format_score(change['ece_after'])} after calibration{temperature} on {change['fitted_on']}{biased}{chance}"
    )


def describe_shift_probe(result: Mapping[str, Any], *, of: str) -> str:
    """The figure of a shift probe, and what its images are taken for instead.

    Args:
      result: of `classification.score` on images of one class.
      of: what the images are, such as `meningioma_tumor without a known patient`.
    """
    shown = result["subsets"]["clean"] if result["subsets"]["clean"]["n"] else result
    label, own = next((name, row) for name, row in shown["per_class"].items() if row["support"])
    names = list(shown["per_class"])
    counts = dict(zip(names, shown["confusion_matrix"][names.index(label)], strict=True))
    wrong = sorted(((count, name) for name, count in counts.items() if name != label and count), reverse=True)
    limits = format_patient_interval(shown["patients"], shown["patients"]["image_intervals"]["recall"][label])
    leaked = (
        f"; {format_image_count(result['subsets']['leaked']['n'])} with a twin left out" if shown is not result else ""
    )
    return (
        f"recall {format_score(own['recall'])} (95 % interval {limits}) on {format_image_count(shown['n'])} of {of}, "
        f"which were kept from training"
        + ("; taken for " + ", ".join(f"{name} {count}" for count, name in wrong) if wrong else "")
        + (leaked if result["subsets"]["leaked"]["n"] else "")
    )


def describe_patients(patients: Mapping[str, Any]) -> str:
    """What counts as a patient, and what does not fit."""
    mixed = patients["several_labels"]
    verbs = ("has", "counts") if mixed == 1 else ("have", "count")
    return (
        f"patients as grouped: {patients['grouping']}; where a patient is unknown, images that look alike count as one"
        + (f"; {mixed} {verbs[0]} images of several classes and {verbs[1]} for the most frequent one" if mixed else "")
    )


def _summarise_subset(result: Mapping[str, Any]) -> str:
    if not result["n"]:
        return ""
    of_patients = f" of {_format_patient_count(result['patients']['n'])}" if result["patients"] else ""
    if result["n"] < classification.FEW_IMAGES:
        right = sum(row[c] for c, row in enumerate(result["confusion_matrix"]))
        return f"{format_image_count(result['n'])}{of_patients}, {right} right"
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

    def line(name: str, values: Mapping[str, float | None], support: int) -> str:
        cells = (format_score(values[column]) if column in values else "" for column in _COLUMNS)
        return f"{name:>{width}}" + "".join(f"{cell:>13}" for cell in cells) + f"{support:>10}"

    return "\n".join(
        [
            heading,
            "",
            " " * width + "".join(f"{title:>13}" for title in _COLUMNS.values()) + f"{'support':>10}",
            "",
            *(line(name, row, row["support"]) for name, row in per_class.items()),
            "",
            line("accuracy", {"f1": result["accuracy"]}, result["n"]),
            line("macro avg", {column: result[f"macro_{column}"] for column in _COLUMNS}, result["n"]),
            line("weighted avg", weighted, result["n"]),
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
            f"95 % intervals, resampling {_format_patient_count(patients['n'])} with all their images: accuracy "
            f"{format_accuracy_interval(result)}, macro-F1 {macro_f1}",
            "(resampling images as if each were of another patient: accuracy "
            f"{format_interval(result['accuracy_ci95'])})",
            f"by patient, from the mean over its images: accuracy {format_score(patients['accuracy'])} "
            f"({own['accuracy']}), macro-F1 {format_score(patients['macro_f1'])} ({own['macro_f1']})",
            describe_patients(patients),
        ]
    return [*lines, describe_calibration(result), f"cross-entropy: {format_score(result['loss'])}"]
