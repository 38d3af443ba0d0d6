"""What follows training: the temperature and the out-of-distribution model of the best weights, then the report."""

import pathlib
from collections.abc import Mapping

import numpy as np

from bt_jax.common import waiting
from bt_jax.data import shift_probe
from bt_jax.data.partition import Partition
from bt_jax.data.phantoms import ood_images
from bt_jax.distributed import processes
from bt_jax.inference import ood
from bt_jax.inference.ood import OodModel
from bt_jax.inference.trained_network import TrainedNetwork
from bt_jax.metrics import calibration
from bt_jax.metrics.calibration import Temperature
from bt_jax.reports import cross_validation, model_card, run_report
from bt_jax.reports.model_card import ModelFacts
from bt_jax.training import examples
from bt_jax.training.loop import TrainingResult
from bt_jax.training.setup import Setup
from bt_jax.training.sharded_forward import LoadedForward
from bt_jax.training.train_state import restore_state
from bt_jax.workdir import run_folder
from bt_jax.workdir.run_folder import OpenRun

# Synthetic images of each kind that are shown to the out-of-distribution model.
_IMAGES_OF_A_KIND = 4


def finalise(setup: Setup, run: OpenRun, result: TrainingResult) -> None:
    """Writes `calibration.json`, `doubt.npz` and the report of the best checkpoint, and for a demo its examples.

    Without validation images the last checkpoint is the best, and there is nothing to fit the first two on: the report
    then takes those that `out_of_fold.calibrate` has written. All processes call it alike; the first one writes.
    """
    progress = result.progress
    best_step = progress.step if progress.best_step is None else progress.best_step  # the best checkpoint may be lost
    best = restore_state(run.checkpoints, best_step, like=result.state).get_evaluation_weights()
    model = setup.forward.load_on_first_host(best)
    if not processes.is_first():
        return
    said = waiting.report("scoring the images and writing the report", say=processes.say)
    with run.record.time_phase("report"), said:
        logits, features = _compute_outputs(model, setup.data)
        temperature: Temperature | None
        if "validation" in logits:
            temperature = fit_temperature(setup.data, logits["validation"], step=best_step)
            calibration.write(run.folder, temperature)
            ood_model = fit_ood_model(model, setup.data, features["validation"], step=best_step)
        else:
            temperature, ood_model = (kept.read(run.folder, step=best_step) for kept in (calibration, ood))
        facts: ModelFacts = {
            **setup.facts,
            "provenance": run.record.get_provenance(),
            "epochs": round(setup.plan.compute_epoch(progress.step), 2),
            "best_step": best_step,
            "versions": run_folder.get_versions(),
            "duration_s": run.record.get_total_seconds(),
        }
        if ood_model is not None:
            ood.write(run.folder, ood_model)
            facts["doubt"] = _describe_ood_scores(ood_model, features, _compute_other_features(model, setup))
        if setup.examples and ("testing" in logits or "validation" in logits):
            _write_examples(setup, run, model, logits, temperature)
        card = run_report.write(
            run.folder, data=setup.data, logits=logits, temperature=temperature, facts=facts, say=processes.say
        )
    run.record.save()
    processes.say(f"\nreport: {card}")


def finalise_folds(folder: pathlib.Path, *, folds: int) -> None:
    """Writes the ensemble's `calibration.json` and the report of a cross-validation whose folds are finished.

    The first process calls it.
    """
    workdirs = cross_validation.list_workdirs(folder, folds)
    predictions = cross_validation.pool_predictions(workdirs)
    ensemble = cross_validation.fit_ensemble_temperature(predictions)
    calibration.write(folder, ensemble)
    cross_validation.write(folder, predictions=predictions, ensemble=ensemble, folds=folds, say=processes.say)


def fit_temperature(data: Partition, logits: np.ndarray, *, step: int) -> Temperature:
    """Fits the temperature on the logits [N, classes] of the validation images."""
    return Temperature(
        value=calibration.fit(logits, data.validation.labels),
        fitted_on=f"the {len(data.validation)} validation images",
        images=len(data.validation),
        step=step,
    )


def fit_ood_model(model: LoadedForward, data: Partition, validation: np.ndarray, *, step: int) -> OodModel | None:
    """Fits the out-of-distribution model on the features of training images and of the validation images [N, D].

    None where the features do not differ at all, see `ood.fit`.
    """
    rows = ood.choose_rows(len(data.training))
    _, training = model.compute(data.training.images[rows])
    return ood.fit(training, validation, fitted_on=f"the {len(data.validation)} validation images", step=step)


def _write_examples(
    setup: Setup, run: OpenRun, model: LoadedForward, logits: Mapping[str, np.ndarray], temperature: Temperature | None
) -> None:
    """Draws heat maps of a few testing images, or validation images, into the report; phantoms become files too."""
    data = setup.data
    split, dataset = ("testing", data.testing) if "testing" in logits else ("validation", data.validation)
    rows = examples.choose_rows(dataset.labels, each=setup.examples)
    examples.draw_heat_maps(
        run.folder / "report" / model_card.HEAT_MAPS,
        TrainedNetwork(setup.description, **model.weights),
        dataset,
        rows,
        probabilities=calibration.softmax(logits[split], temperature.value if temperature else 1.0),
        class_names=data.source.class_names,
        title=f"{split.capitalize()} images with heat maps of the predicted class (red: wrong)",
        notice=data.source.notice,
    )
    if data.source.synthetic:
        examples.write_files(run.folder / examples.FOLDER, data.source, dataset, rows)


def _compute_outputs(model: LoadedForward, data: Partition) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Returns logits [N, classes] and features [N, D] by the split that is scored, for those that have images."""
    logits, features = {}, {}
    splits = {"validation": data.validation, "testing": data.testing, shift_probe.SPLIT: data.shifted}
    for name, dataset in splits.items():
        if len(dataset):
            logits[name], features[name] = model.compute(dataset.images)
    return logits, features


def _compute_other_features(model: LoadedForward, setup: Setup) -> np.ndarray:
    """Returns the features [N, D] of synthetic images of other things than brain slices."""
    images = [setup.preprocessing(picture.image) for picture in ood_images.draw(each=_IMAGES_OF_A_KIND)]
    return model.compute(np.stack(images))[1]


def _describe_ood_scores(model: OodModel, features: Mapping[str, np.ndarray], others: np.ndarray) -> str:
    """Says how many images of each split and of the synthetic ones have a score above 1."""
    scores = {f"{name} images": model.score(array) for name, array in features.items()}
    scores["synthetic images of other things"] = model.score(others)
    return "; ".join(f"{(score > 1).sum()} of {len(score)} {name} are flagged" for name, score in scores.items())
