"""The sections of a model card that come from the scores: results, calibration, and the scores of each class."""

import pathlib
from collections.abc import Mapping
from typing import Any

from bt_jax.common.formatting import format_markdown_section, format_markdown_table
from bt_jax.metrics import classification
from bt_jax.reports import score_text
from bt_jax.reports.score_text import format_image_count, format_score

# Results of `split_report.write_split_report` by name of the split.
Results = Mapping[str, Mapping[str, Any]]

_PICTURES = ("confusion_matrix.png", "roc_curves.png", "calibration.png")


def format_results(results: Results) -> str:
    """Formats the main scores of all splits, over images and over patients; clean images come first."""
    if not results:
        return ""
    parts = {title: part for name, result in results.items() for title, part in _list_subsets(name, result)}
    rows = [
        [title, part["n"], part["patients"]["n"] if part["patients"] else "-", format_score(part["accuracy"])]
        + [score_text.format_accuracy_interval(part)]
        + [format_score(part[key]) for key in ("macro_f1", "macro_auc", "macro_average_precision")]
        + [_format_unbiased_ece(part)]
        for title, part in parts.items()
    ]
    header = ["Images", "Number", "Patients", "Accuracy", "95 % interval", "Macro F1", "Macro AUC", "PR-AUC", "ECE"]
    known = {title: part["patients"] for title, part in parts.items() if part["patients"] and part["n"]}
    patient_rows = [
        [title, part["n"]]
        + [
            f"{format_score(part[key])} ({score_text.format_patient_interval(part, part[f'{key}_ci95'])})"
            for key in ("accuracy", "macro_f1")
        ]
        for title, part in known.items()
    ]
    leaks = any(result["subsets"]["leaked"]["n"] for result in results.values())
    return format_markdown_section(
        "Results",
        format_markdown_table(header, rows),
        "Judge the model by the clean images. A leaked image has a near-duplicate in training or validation, so a "
        "model that only memorised it gets it right."
        if leaks
        else "",
        "The 95 % interval resamples patients, each with all of its images, if patients are known. Elsewhere it "
        "resamples images. Images of one patient tend to be right or wrong together, so that interval is too narrow "
        "if several images are of one patient. Macro averages give every class that has images the same weight. "
        "PR-AUC is the average precision. ECE is the expected calibration error: the mean distance between confidence "
        "and accuracy.",
        "Scores over patients, each predicted from the mean probabilities of the patient's images:"
        if patient_rows
        else "",
        format_markdown_table(
            ["Patients", "Number", "Accuracy (95 % interval)", "Macro F1 (95 % interval)"], patient_rows
        ),
        *(
            f"{name}: {score_text.describe_patients(result['patients'])}."
            for name, result in results.items()
            if result["patients"]
        ),
    )


def format_calibration(results: Results, *, remark: str | None) -> str:
    """Formats the calibration error and the cross-entropy of all calibrated splits, before and after.

    Args:
      results: of the splits.
      remark: a sentence about the temperature, or None.
    """
    keys = ("ece_before", "ece_after", "ece_if_calibrated", "loss_before", "loss_after")
    rows = [
        [title, *(format_score({**part, **part["calibration"]}[key]) for key in keys)]
        for name, result in results.items()
        for title, part in _list_subsets(name, result)
        if part["calibration"]
    ]
    changes = {name: result["calibration"] for name, result in results.items() if result["calibration"]}
    if not changes:
        return ""
    first = next(iter(changes.values()))
    temperature = (
        "one temperature for each fold"
        if first["temperature"] is None
        else f"the temperature {first['temperature']:.4f}"
    )
    return format_markdown_section(
        "Calibration",
        f"The logits are divided by {temperature}, fitted on {first['fitted_on']}, before they become probabilities. "
        "This changes the confidence of the model, and never the predicted class.",
        format_markdown_table(
            ["Images", "ECE before", "ECE after", "ECE by chance", "Cross-entropy before", "Cross-entropy after"], rows
        ),
        "ECE by chance is what a perfectly calibrated model would show on this number of images. An ECE that is not "
        "larger is no sign of miscalibration.",
        *(
            f"{name}: the temperature was fitted on these images, so the values after calibration are optimistic. Use "
            "the values before, or those of images that it was not fitted on."
            for name, change in changes.items()
            if change["biased"]
        ),
        remark or "",
        "The temperature is valid for images like those it was fitted on. On external data the model may be "
        "overconfident.",
    )


def format_class_scores(name: str, result: Mapping[str, Any], folder: pathlib.Path) -> str:
    """Formats the scores of each class of a split, and shows the pictures in `folder/name`."""
    clean = result["subsets"]["clean"]
    leaks = result["subsets"]["leaked"]["n"] > 0
    shown = clean if leaks else result
    pictures_of_clean = leaks and clean["n"] >= classification.FEW_IMAGES
    keys = ("precision", "f1", "specificity", "auc", "average_precision", *classification.SPECIFICITIES)
    rows = [
        [f"`{label}`", row["support"], format_score(row["recall"]), _format_recall_interval(shown, label)]
        + [format_score(row[key]) for key in keys]
        for label, row in shown["per_class"].items()
    ]
    header = ["Class", "Images", "Recall", "95 % interval", "Precision", "F1", "Specificity", "AUC", "PR-AUC"]
    header += [f"Recall at specificity {least:.2f}" for least in classification.SPECIFICITIES.values()]
    pictures = [
        f"![{picture.removesuffix('.png').replace('_', ' ')} of {name}]({escape_link(name)}/{picture})"
        for picture in _PICTURES
        if (folder / name / picture).is_file()
    ]
    return format_markdown_section(
        f"Scores by class: {name}",
        f"**{result['caution']}**" if result["caution"] else "",
        f"Clean images only ({format_image_count(clean['n'])}):" if leaks else "",
        format_markdown_table(header, rows),
        "The thresholds of the last two columns were chosen on the same images, so these values are slightly "
        "optimistic.",
        f"The pictures show {'these images' if pictures_of_clean else 'all ' + format_image_count(result['n'])}."
        if leaks and pictures
        else "",
        *pictures,
    )


def escape_link(name: str) -> str:
    """Returns a file name as a link of Markdown takes it."""
    return name.replace(" ", "%20")


def _list_subsets(name: str, result: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    """Lists the rows of a split: the clean images first if any image leaks, else all images."""
    if not result["subsets"]["leaked"]["n"]:
        return [(name, result)]
    return [
        (f"**{name}, clean images**", result["subsets"]["clean"]),
        (f"{name}, leaked images", result["subsets"]["leaked"]),
        (f"{name}, all images", result),
    ]


def _format_unbiased_ece(part: Mapping[str, Any]) -> str:
    """Formats the ECE, or the one before calibration if the temperature was fitted on these images."""
    if part["calibration"] and part["calibration"]["biased"]:
        return f"{format_score(part['calibration']['ece_before'])} before calibration"
    return format_score(part["ece"])


def _format_recall_interval(result: Mapping[str, Any], label: str) -> str:
    if not (patients := result["patients"]) or not (support := result["per_class"][label]["support"]):
        return "-"
    if support < classification.FEW_OF_A_CLASS:
        return "too few images"
    return score_text.format_patient_interval(patients, patients["image_intervals"]["recall"][label])
