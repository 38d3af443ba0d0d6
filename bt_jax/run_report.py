"""The report of a finished run: a folder for each split scored, the training curves, the model card."""

import json
import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np

from bt_jax import files, plots, report, writers
from bt_jax.data import seen_images
from bt_jax.data.folds import DividedData

Probabilities = Callable[[np.ndarray], np.ndarray]


def write(
    folder: pathlib.Path,
    *,
    data: DividedData,
    probabilities_of: Probabilities,
    facts: report.ModelFacts,
    say: Callable[[str], None],
) -> pathlib.Path:
    """Scores validation and testing images, and writes `report/`.

    Args:
      folder: the workdir.
      data: the images of the run.
      probabilities_of: preprocessed images [N, S, S] uint8 -> probabilities [N, classes].
      facts: what the card says about the model; facts about the data are added here.
      say: called with a line for each result and each file a person will want to open.

    Returns:
      The path of the model card.
    """
    directory = folder / "report"
    notice = data.source.notice
    seen = seen_images.read(folder)
    training = set(data.training.fingerprints), data.training.thumbnails
    results = {}
    for name, dataset, known in (("validation", data.validation, training), ("testing", data.testing, seen)):
        if not len(dataset):
            continue
        results[name] = report.write_split_report(
            directory / name,
            split=name,
            paths=dataset.paths,
            labels=dataset.labels,
            probabilities=probabilities_of(dataset.images),
            class_names=data.source.class_names,
            leaked=seen_images.has_twin(dataset, *known),
            notice=notice,
        )
        say(describe(results[name]))
    plots.training_curves(
        directory / "training_curves.png",
        rows=writers.read_metrics(folder),
        title=f"Training of {facts['title']}",
        notice=notice,
    )
    card = directory / "model_card.md"
    facts |= {
        "data_source": data.source.description,
        "synthetic": data.source.synthetic,
        "kaggle_set": data.is_kaggle_set,
        "images": {"training": len(data.training), "validation": len(data.validation), "testing": len(data.testing)},
        "classes": data.source.class_names,
        "split": f"no group of images is in both training and validation; grouped: {data.grouping}",
    }
    report.write_model_card(card, facts=facts, metrics=results, notice=notice)
    for picture in sorted(directory.rglob("*.png")):
        say(f"picture: {picture}")
    return card


def describe(result: dict[str, Any]) -> str:
    """A split's scores in a line, the clean images first where some are not."""
    parts = [("", result)]
    if result["subsets"]["leaked"]["n"]:
        parts = [("clean: ", result["subsets"]["clean"]), ("with a twin in training: ", result["subsets"]["leaked"])]
    return f"{result['split']}: " + "; ".join(
        f"{name}{scores['n']} images"
        + (
            ""
            if not scores["n"]
            else f", accuracy {scores['accuracy']:.3f} ({scores['accuracy_ci95'][0]:.3f} to "
            f"{scores['accuracy_ci95'][1]:.3f}), macro-F1 {scores['macro_f1']:.3f}"
        )
        for name, scores in parts
    )


def summarise_folds(folder: pathlib.Path, *, folds: int, say: Callable[[str], None]) -> None:
    """Mean and range of the validation scores over all folds, in `cross_validation.json`."""
    results = [
        json.loads((folder / f"fold_{fold}" / "report" / "validation" / "metrics.json").read_text())
        for fold in range(folds)
    ]
    summary: dict[str, Any] = {"schema": 1, "folds": folds}
    for name in ("accuracy", "macro_f1", "macro_auc", "ece"):
        values = [result[name] for result in results if result[name] is not None]
        summary[name] = {"mean": float(np.mean(values)), "min": min(values), "max": max(values)} if values else None
        if values:
            say(f"{name} over {folds} folds: {np.mean(values):.3f} ({min(values):.3f} to {max(values):.3f})")
    files.write_json(folder / "cross_validation.json", summary)
