"""From a configuration to one file: a cross-validation, a final model on all images, its calibration, and its card."""

import dataclasses
import json
import pathlib
from collections.abc import Callable
from typing import Any

import ml_collections
import numpy as np

from bt_jax.common.errors import UsageError
from bt_jax.data import dataset, sources
from bt_jax.data.class_labels import SYNTHETIC_NOTICE
from bt_jax.data.dataset import Dataset
from bt_jax.data.preprocess import Preprocessing
from bt_jax.experiments.runner import Train
from bt_jax.inference import convert, out_of_fold
from bt_jax.inference.description import ModelDescription
from bt_jax.inference.out_of_fold import FoldOutputs
from bt_jax.inference.trained_model import TrainedModel
from bt_jax.metrics import calibration
from bt_jax.models import summary
from bt_jax.reports import cross_validation, licences, model_card
from bt_jax.workdir import checkpoint, run_folder
from bt_jax.workdir.run_folder import RunRecord

FOLDS, FINAL = "folds", "final"
# Limits of the confidence that the card lists, beside the chosen one.
_LISTED = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95)


def release(
    config: ml_collections.ConfigDict,
    folder: pathlib.Path,
    out: pathlib.Path,
    *,
    accuracy: float,
    train: Train,
    say: Callable[[str], None],
) -> int:
    """Trains the folds and the final model, calibrates it by the folds, and writes it to a file, with a card beside it.

    Called again with the same folder, it goes on where it stopped.

    Args:
      config: of the folds; the final model differs in `data.folds` only.
      folder: for the runs: `folds` and `final`.
      out: safetensors file whose large arrays are float16; the card has the same name and ends in `.md`.
      accuracy: that the answers without a warning shall have.
      train: trains a run, or all folds of one.
      say: called with each line of output.

    Returns:
      The exit status: 0, or that of an interrupted run.

    Raises:
      UsageError: a field that a final model cannot have, or the outputs of the file differ from those of the model.
    """
    check_config(config)
    final_config = config.copy_and_resolve_references()
    final_config.data.folds = final_config.data.fold = 0
    with dataset.cache_datasets():
        for title, one, name in (("Folds", config, FOLDS), ("All images", final_config, FINAL)):
            say(f"\n{title}")
            if status := train(one, folder / name):
                return status
        images = _load_images(config, folder / FINAL)
        workdirs = [folder / FOLDS]
        if config.data.fold == -1:
            workdirs = cross_validation.list_workdirs(folder / FOLDS, config.data.folds)
        outputs = out_of_fold.compute(workdirs, images)
        model = out_of_fold.calibrate(folder / FINAL, images, outputs, accuracy=accuracy)
        say("\nAll images, calibrated")
        if status := train(final_config, folder / FINAL):  # it is finished, and only its report is written again
            return status
    difference = convert.write(out, model, form="safetensors", images=images.images, half=True)
    say(
        f"\ncompared on {difference.images:,} images: probabilities differ by up to {difference.probabilities:.1e}, "
        f"OOD scores by {difference.ood_scores:.1e}, and {difference.changed} predicted classes"
    )
    card = out.with_suffix(".md")
    model_card.write_model_card(
        card,
        facts=_collect_facts(folder / FINAL, model, outputs, images=len(images), accuracy=accuracy),
        metrics=_score(folder / FINAL, cross_validation.pool_predictions(workdirs), outputs, images),
        notice=SYNTHETIC_NOTICE if model.description.synthetic else None,
    )
    say(f"model: {out} ({out.stat().st_size / 1e6:.1f} MB)\ncard: {card}")
    return 0


def check_config(config: ml_collections.ConfigDict) -> None:
    """Refuses a configuration that keeps images from the final model, or whose folds would follow another plan."""
    if not config.data.folds:
        raise UsageError("config.data.folds is 0, so nothing would measure the final model: use at least 2")
    if config.data.probe:
        raise UsageError(
            f"config.data.probe is {config.data.probe!r}, but a final model trains on all images: leave it empty"
        )
    patience = config.early_stopping.patience
    if 0 < patience <= max(config.stages.head_epochs, config.stages.epochs) / config.eval.every_epochs:
        raise UsageError(
            f"config.early_stopping.patience is {patience}, but a final model has no validation images to stop by: "
            f"use 0, and stages as long as they shall be"
        )


def _load_images(config: ml_collections.ConfigDict, final: pathlib.Path) -> Dataset:
    """Loads the Training images as the final model sees them."""
    _, metadata = checkpoint.read_best_metadata(final)
    source = sources.open_source(
        config.data.source,
        directory=config.data.dir,
        phantoms_per_class=tuple(config.data.phantoms_per_class),
        seed=config.seed,
    )
    return dataset.load(
        source,
        preprocessing=Preprocessing.from_dict(ModelDescription.from_dict(metadata["model"]).preprocessing),
        max_unreadable=config.data.max_unreadable,
        warn=lambda line: None,  # the runs have said it
        memory=config.data.memory_gb * 1e9,
    ).select_split("Training")


def _score(
    final: pathlib.Path, predictions: cross_validation.OutOfFold, outputs: FoldOutputs, images: Dataset
) -> dict[str, Any]:
    """Scores the folds after their last step, which is what the final model has, and its own testing images.

    Args:
      final: workdir of the final model.
      predictions: of the folds' best checkpoints, with what is known about the images.
      outputs: of their last checkpoints.
      images: the data set of the outputs.
    """
    row_of = {images.paths[row]: number for number, row in enumerate(outputs.rows.tolist())}
    logits = outputs.logits[[row_of[path] for path in predictions.paths]]
    predictions = dataclasses.replace(predictions, logits=logits.astype(np.float64))
    temperatures = cross_validation.fit_temperatures(predictions)
    record = RunRecord(final / "run.json", json.loads((final / "run.json").read_bytes()))
    synthetic = bool(record.content["data"]["synthetic"])
    results = cross_validation.report_splits(
        final / "report",
        predictions,
        probabilities=calibration.softmax(predictions.logits, temperatures[predictions.folds][:, None]),
        grouping=record.content["data"]["grouping"],
        notice=SYNTHETIC_NOTICE if synthetic else None,
    )
    testing = final / "report" / "testing" / "metrics.json"
    return results | ({"testing": json.loads(testing.read_bytes())} if testing.exists() else {})


def _collect_facts(
    final: pathlib.Path, model: TrainedModel, outputs: FoldOutputs, *, images: int, accuracy: float
) -> model_card.ModelFacts:
    record = RunRecord(final / "run.json", json.loads((final / "run.json").read_bytes()))
    config = json.loads((final / "config.json").read_bytes())["config"]
    description, temperature, limit = model.description, model.temperature, model.confidence_limit
    assert temperature is not None  # `out_of_fold.calibrate` wrote it
    kaggle_set = bool(record.content["data"]["kaggle_set"])
    check = outputs.cross_check(accuracy=accuracy)
    facts: model_card.ModelFacts = {
        "title": f"{description.name}, trained on all images",
        "summary": f"This model was trained on all {images:,} images, so none of them measures it. The scores of "
        "`out_of_fold` are those of other networks of the same plan, each on the images of groups (patients, where "
        "they are known) that it had not seen, after the last step of its training.",
        "model": f"{description.name} at {model.preprocessing.size}x{model.preprocessing.size} pixels"
        + (model_card.MIRRORED if description.mirrored else ""),
        "parameters": summary.count_parameters(model.networks[0].params),
        "weights": description.weights,
        "data_source": record.content["data"]["source"],
        "provenance": record.get_provenance(),
        "synthetic": description.synthetic,
        "kaggle_set": kaggle_set,
        "images": {"training": images},
        "classes": description.class_names,
        "split": f"none; the folds: {record.content['data']['grouping']}",
        "preprocessing": run_folder.format_settings(description.preprocessing),
        "augmentation": run_folder.format_settings(config["augment"]),
        "calibration": f"The final model divides its logits by {temperature.value:.4f}, fitted on "
        f"{temperature.fitted_on}.",
        "selections": outputs.list_selections(sorted({*_LISTED, *([limit.value] if limit else [])})),
        "limit": limit,
        "asked_accuracy": accuracy,
        "licences": licences.list_licences(kaggle_set=kaggle_set, weights=description.weights),
        "seed": config["seed"],
        "versions": record.content["versions"],
        "duration_s": record.get_total_seconds(),
    }
    if check is not None:
        facts["checked"] = check.selection
        facts["doubt"] = f"{check.flagged} of {len(outputs.labels)} out-of-fold images are flagged"
    return facts
