"""Writes workdirs without training: the files that a comparison reads, with chosen predictions."""

import json
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from bt_jax.common import files
from bt_jax.metrics import classification

CLASSES = ("glioma_tumor", "no_tumor")
BASE: dict[str, Any] = {
    "seed": 0,
    "model": {"name": "mlp", "hidden": [64], "dropout": 0.5},
    "data": {"fold": 0, "folds": 5, "source": "folder", "dir": "images", "workers": 0, "threads": 2},
    "stages": {"epochs": 5.0},
    "checkpoint": {"every_steps": 100},
}


def config(**changes: Any) -> dict[str, Any]:
    """Returns the configuration with changed values, `model__hidden` for `model.hidden`."""
    made: dict[str, Any] = json.loads(json.dumps(BASE))
    for name, value in changes.items():
        *parents, last = name.split("__")
        node = made
        for parent in parents:
            node = node[parent]
        node[last] = value
    return made


def write(
    folder: pathlib.Path,
    *,
    right: Sequence[bool],
    first_image: int = 0,
    groups: Sequence[str] = (),
    pixels: str = "p",
    synthetic: bool = False,
    seconds: float = 60.0,
    losses: Sequence[float] = (1.0, 0.5),
    finished: bool = True,
    **changes: Any,
) -> pathlib.Path:
    """Writes a run whose predictions of the validation images, half of each class, are right or wrong as given.

    Args:
      folder: the workdir; it is created.
      right: whether the prediction of each validation image is right.
      first_image: number of the first image, for folds.
      groups: patient of each image; empty: each image has its own.
      pixels: prefix of all fingerprints.
      synthetic: whether the data are.
      seconds: total of the stages.
      losses: `val/loss` of each epoch.
      finished: whether the report exists.
      changes: of the configuration.
    """
    made = config(**changes)
    folder.mkdir(parents=True, exist_ok=True)
    files.write_json(folder / "config.json", {"schema": 1, "config": made})
    record = {
        "data": {"synthetic": synthetic},
        "model": {"name": made["model"]["name"]},
        "seconds_by_stage": {"1": seconds / 4, "2": seconds * 3 / 4},
    }
    files.write_json(folder / "run.json", record)
    numbers = range(first_image, first_image + len(right))
    paths = [f"Training/{CLASSES[n % 2]}/{n}.png" for n in numbers]
    labels = np.array([n % 2 for n in numbers])
    rows = [
        [path, CLASSES[label], groups[i] if groups else f"g{path}", 0, "validation", f"{pixels}{path}"]
        for i, (path, label) in enumerate(zip(paths, labels, strict=True))
    ]
    rows.append(["Training/no_tumor/other.png", "no_tumor", "x", 1, "training", "f"])
    files.write_csv(folder / "split.csv", ("path", "label", "group", "fold", "role", "fingerprint"), rows)
    log = [
        {"step": 10 * i, "epoch": float(i), "stage": 1, "train/images_per_s": 100.0 * i}
        | {"val/loss": loss, "val/accuracy": 1 - loss / 2, "val/macro_f1": 1 - loss / 2}
        for i, loss in enumerate(losses, start=1)
    ]
    files.write_text(folder / "metrics.jsonl", "".join(json.dumps(row) + "\n" for row in log))
    if not finished:
        return folder
    predictions = np.where(right, labels, 1 - labels)
    probabilities = np.eye(2)[predictions] * 0.8 + 0.1
    scores = classification.score(split="validation", labels=labels, probabilities=probabilities, class_names=CLASSES)
    files.write_json(folder / "report" / "validation" / "metrics.json", scores)
    table = [
        [path, CLASSES[label], CLASSES[prediction], *row]
        for path, label, prediction, row in zip(paths, labels, predictions, probabilities, strict=True)
    ]
    files.write_csv(folder / "report/validation/predictions.csv", ["path", "label", "prediction", *CLASSES], table)
    files.write_text(folder / "report" / "model_card.md", "# A run\n")
    return folder
