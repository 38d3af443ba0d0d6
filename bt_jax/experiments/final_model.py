"""From a configuration to one file: a cross-validation, a final model on all images, its calibration, and its card."""

import json
import pathlib
from collections.abc import Callable
from typing import Any

import ml_collections

from bt_jax.common.errors import UsageError
from bt_jax.data import dataset, sources
from bt_jax.data.class_labels import SYNTHETIC_NOTICE
from bt_jax.data.dataset import Dataset
from bt_jax.data.preprocess import Preprocessing
from bt_jax.experiments.runner import Train
from bt_jax.inference import convert, out_of_fold, trained_model
from bt_jax.inference.out_of_fold import OutOfFold
from bt_jax.inference.trained_model import TrainedModel
from bt_jax.models import summary
from bt_jax.reports import licences, model_card
from bt_jax.workdir import run_folder

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
      out: safetensors file with float16 weights; the card has the same name and ends in `.md`.
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
    workdirs = sorted((folder / FOLDS).glob("fold_*")) or [folder / FOLDS]
    evidence = out_of_fold.compute(workdirs, images)
    model = out_of_fold.calibrate(folder / FINAL, images, evidence, accuracy=accuracy)
    difference = convert.write(out, model, form="safetensors", images=images.images, half=True)
    say(
        f"compared on {difference.images:,} images: probabilities differ by up to {difference.probabilities:.1e}, and "
        f"{difference.changed} predicted classes"
    )
    card = out.with_suffix(".md")
    model_card.write_model_card(
        card,
        facts=_collect_facts(folder, model, evidence, images=len(images)),
        metrics=_read_results(folder / FOLDS),
        notice=SYNTHETIC_NOTICE if model.description.synthetic else None,
    )
    say(f"model: {out} ({out.stat().st_size / 1e6:.1f} MB)\ncard: {card}")
    return 0


def check_config(config: ml_collections.ConfigDict) -> None:
    """Refuses a configuration that keeps images from the final model, or leaves it without evidence."""
    if not config.data.folds:
        raise UsageError("config.data.folds is 0, so nothing would measure the final model: use at least 2")
    if config.data.probe:
        raise UsageError(
            f"config.data.probe is {config.data.probe!r}, but a final model trains on all images: leave it"
        )


def _load_images(config: ml_collections.ConfigDict, final: pathlib.Path) -> Dataset:
    """Loads the Training images as the final model sees them."""
    description, _ = trained_model.restore(final)
    source = sources.open_source(
        config.data.source,
        directory=config.data.dir,
        phantoms_per_class=tuple(config.data.phantoms_per_class),
        seed=config.seed,
    )
    return dataset.load(
        source,
        preprocessing=Preprocessing.from_dict(description.preprocessing),
        max_unreadable=config.data.max_unreadable,
        warn=lambda line: None,  # the runs have said it
    ).select_split("Training")


def _read_results(folds: pathlib.Path) -> dict[str, Any]:
    """Reads the scores of the folds: those of the cross-validation, or of its only fold."""
    name = "out_of_fold" if (folds / "cross_validation.json").exists() else "validation"
    return {name: json.loads((folds / "report" / name / "metrics.json").read_bytes())}


def _collect_facts(
    folder: pathlib.Path, model: TrainedModel, evidence: OutOfFold, *, images: int
) -> model_card.ModelFacts:
    record = run_folder.RunRecord(folder / FINAL / "run.json", json.loads((folder / FINAL / "run.json").read_bytes()))
    config = json.loads((folder / FINAL / "config.json").read_bytes())["config"]
    description, network = model.description, model.networks[0]
    temperature = model.temperature
    assert temperature is not None  # `out_of_fold.calibrate` wrote it
    return {
        "title": f"{description.name}, trained on all images",
        "model": f"{description.name} at {model.preprocessing.size}x{model.preprocessing.size} pixels",
        "parameters": summary.count_parameters(network.params),
        "weights": description.weights,
        "data_source": record.content["data"]["source"],
        "provenance": record.get_provenance(),
        "synthetic": description.synthetic,
        "kaggle_set": bool(record.content["data"]["kaggle_set"]),
        "images": {"training": images},
        "classes": description.class_names,
        "split": "all images were trained on. The scores are those of networks of the same plan, each on the images of "
        f"patients that it had not seen; grouped: {record.content['data']['grouping']}",
        "preprocessing": run_folder.format_settings(description.preprocessing),
        "augmentation": run_folder.format_settings(config["augment"]),
        "calibration": f"The final model divides its logits by {temperature.value:.4f}, fitted on "
        f"{temperature.fitted_on}.",
        "selections": evidence.list_selections(
            sorted({*_LISTED, *([model.confidence_limit.value] if model.confidence_limit else [])})
        ),
        "limit": model.confidence_limit,
        "licences": licences.list_licences(
            kaggle_set=bool(record.content["data"]["kaggle_set"]), weights=description.weights
        ),
        "seed": config["seed"],
        "versions": record.content["versions"],
        "duration_s": record.get_total_seconds(),
    }
