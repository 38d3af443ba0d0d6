"""The report of a finished run: a folder for each split scored, the training curves, the model card."""

import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from bt_jax.data import leakage, patient_groups, shift_probe
from bt_jax.data.partition import Partition
from bt_jax.metrics import calibration
from bt_jax.metrics.by_patient import Patients
from bt_jax.metrics.calibration import Calibration, Temperature
from bt_jax.reports import model_card, score_text, split_report, training_curves
from bt_jax.workdir import metric_log


def write(
    folder: pathlib.Path,
    *,
    data: Partition,
    logits: Mapping[str, np.ndarray],
    temperature: Temperature | None,
    facts: model_card.ModelFacts,
    say: Callable[[str], None],
) -> pathlib.Path:
    """Scores the validation images and the other splits, and writes `report/`.

    Args:
      folder: the workdir.
      data: the images of the run.
      logits: [N, classes] of the checkpoint that is kept, by the name of the split.
      temperature: to calibrate them with; None without validation images.
      facts: what the model card says about the model; those about the data are found here.
      say: called with a line for each result and each file that the user may want to open.

    Returns:
      The path of the model card.
    """
    directory = folder / "report"
    notice = data.source.notice
    results = _report_splits(folder, data, logits, temperature, say)
    facts = {**facts, **_collect_data_facts(data)}
    if data.probe and shift_probe.SPLIT in results:
        facts["shift_probe"] = score_text.describe_shift_probe(results[shift_probe.SPLIT], of=data.probe.description)
        say(f"shift probe: {facts['shift_probe']}")
    training_curves.draw_training_curves(
        directory / "training_curves.png",
        rows=metric_log.read_metrics(folder),
        title=f"Training of {facts['title']}",
        notice=notice,
    )
    card = directory / "model_card.md"
    if "doubt" in facts:
        say(f"out-of-distribution: {facts['doubt']}")
    model_card.write_model_card(card, facts=facts, metrics=results, notice=notice)
    for picture in sorted(directory.rglob("*.png")):
        say(f"picture: {picture}")
    return card


def _report_splits(
    folder: pathlib.Path,
    data: Partition,
    logits: Mapping[str, np.ndarray],
    temperature: Temperature | None,
    say: Callable[[str], None],
) -> dict[str, Any]:
    """Writes the report of each split that has logits, and returns the results by its name."""
    seen = leakage.read(folder)
    training = set(data.training.fingerprints), data.training.thumbnails
    tested = patient_groups.group_by_patient(data.testing, data.source.groups)
    results: dict[str, Any] = {}
    for name, dataset, known, patients in (
        ("validation", data.validation, training, Patients(data.look_up_groups(data.validation), data.grouping)),
        ("testing", data.testing, seen, Patients(*tested) if tested else None),
        (shift_probe.SPLIT, data.shifted, seen, Patients(data.look_up_groups(data.shifted), data.grouping)),
    ):
        if name not in logits:
            continue
        results[name] = split_report.write_split_report(
            folder / "report" / name,
            split=name,
            paths=dataset.paths,
            labels=dataset.labels,
            probabilities=calibration.softmax(logits[name], temperature.value if temperature else 1.0),
            class_names=data.source.class_names,
            leaked=leakage.has_near_duplicate(dataset, *known),
            patients=patients,
            known=data.validation_known if name == "validation" else None,
            change=Calibration(
                uncalibrated=calibration.softmax(logits[name]),
                temperature=temperature.value,
                fitted_on=temperature.fitted_on,
                biased=name == "validation",
            )
            if temperature
            else None,
            notice=data.source.notice,
        )
        say(score_text.summarise_scores(results[name]))
        say(f"{name}: {score_text.describe_calibration(results[name])}")
    return results


def _collect_data_facts(data: Partition) -> model_card.ModelFacts:
    return {
        "data_source": data.source.description,
        "synthetic": data.source.synthetic,
        "kaggle_set": data.is_kaggle_set,
        "images": {"training": len(data.training), "validation": len(data.validation), "testing": len(data.testing)},
        "classes": data.source.class_names,
        "split": f"no group of images is in both training and validation; grouped: {data.grouping}"
        if len(data.validation)
        else "all images were trained on, so none of them measures the model",
    }
