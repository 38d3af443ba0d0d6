"""The report of a finished run: a folder for each split scored, the training curves, the model card."""

import pathlib
from collections.abc import Callable, Mapping

import numpy as np

from bt_jax.data import leakage, patient_groups, shift_probe
from bt_jax.data.partition import Partition
from bt_jax.data.phantoms import ood_images
from bt_jax.data.preprocess import Preprocessing
from bt_jax.inference import ood
from bt_jax.metrics import calibration
from bt_jax.metrics.by_patient import Patients
from bt_jax.metrics.calibration import Calibration, Temperature
from bt_jax.reports import model_card, score_text, split_report, training_curves
from bt_jax.workdir import metric_log

# Preprocessed images [N, S, S] uint8 -> logits [N, classes] and features [N, D].
Outputs = Callable[[np.ndarray], tuple[np.ndarray, ...]]

# Of each kind of made-up picture that the model should doubt.
_PICTURES_OF_A_KIND = 4


def write(
    folder: pathlib.Path,
    *,
    data: Partition,
    preprocessing: Preprocessing,
    outputs_of: Outputs,
    step: int,
    facts: model_card.ModelFacts,
    say: Callable[[str], None],
) -> pathlib.Path:
    """Fits temperature and doubt on the validation images, scores these and the other parts, writes `report/`.

    Args:
      folder: the workdir.
      data: the images of the run.
      preprocessing: of the images.
      outputs_of: of the checkpoint that is kept.
      step: of that checkpoint.
      facts: what the card says about the model; facts about the data are added here.
      say: called with a line for each result and each file a person will want to open.

    Returns:
      The path of the model card.
    """
    directory = folder / "report"
    notice = data.source.notice
    seen = leakage.read(folder)
    training = set(data.training.fingerprints), data.training.thumbnails
    logits, features = {}, {}
    for name, dataset in (
        ("validation", data.validation),
        ("testing", data.testing),
        (shift_probe.SPLIT, data.shifted),
    ):
        if len(dataset):
            logits[name], features[name] = outputs_of(dataset.images)
    temperature = Temperature(
        value=calibration.fit(logits["validation"], data.validation.labels),
        fitted_on=f"the {len(data.validation)} validation images",
        images=len(data.validation),
        step=step,
    )
    calibration.write(folder, temperature)
    doubted = _fit_doubt(folder, data, preprocessing, outputs_of, features, step=step)
    tested = patient_groups.group_by_patient(data.testing, data.source.groups)
    results = {}
    for name, dataset, known, patients in (
        ("validation", data.validation, training, Patients(data.look_up_groups(data.validation), data.grouping)),
        ("testing", data.testing, seen, Patients(*tested) if tested else None),
        (shift_probe.SPLIT, data.shifted, seen, Patients(data.look_up_groups(data.shifted), data.grouping)),
    ):
        if name not in logits:
            continue
        results[name] = split_report.write_split_report(
            directory / name,
            split=name,
            paths=dataset.paths,
            labels=dataset.labels,
            probabilities=calibration.softmax(logits[name], temperature.value),
            class_names=data.source.class_names,
            leaked=leakage.has_near_duplicate(dataset, *known),
            patients=patients,
            change=Calibration(
                uncalibrated=calibration.softmax(logits[name]),
                temperature=temperature.value,
                fitted_on=temperature.fitted_on,
                biased=name == "validation",
            ),
            notice=notice,
        )
        say(score_text.summarise_scores(results[name]))
        say(f"{name}: {score_text.describe_calibration(results[name])}")
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
    facts |= {
        "data_source": data.source.description,
        "synthetic": data.source.synthetic,
        "kaggle_set": data.is_kaggle_set,
        "images": {"training": len(data.training), "validation": len(data.validation), "testing": len(data.testing)},
        "classes": data.source.class_names,
        "split": f"no group of images is in both training and validation; grouped: {data.grouping}",
    }
    if doubted:
        facts["doubt"] = doubted
        say(f"doubt: {doubted}")
    model_card.write_model_card(card, facts=facts, metrics=results, notice=notice)
    for picture in sorted(directory.rglob("*.png")):
        say(f"picture: {picture}")
    return card


def _fit_doubt(
    folder: pathlib.Path,
    data: Partition,
    preprocessing: Preprocessing,
    outputs_of: Outputs,
    features: Mapping[str, np.ndarray],
    *,
    step: int,
) -> str:
    """Writes `doubt.npz`, and says in words how often the model doubts what; empty where it cannot be fitted."""
    kept = data.training.images[ood.choose_rows(len(data.training))]
    fitted_on = f"the {len(data.validation)} validation images"
    found = ood.fit(outputs_of(kept)[1], features["validation"], fitted_on=fitted_on, step=step)
    if found is None:
        return ""
    ood.write(folder, found)
    pictures = ood_images.draw(each=_PICTURES_OF_A_KIND)
    others = np.stack([preprocessing(picture.image) for picture in pictures])
    of = {f"{name} images": array for name, array in features.items()}
    of["made-up pictures of other things"] = outputs_of(others)[1]
    scores = {name: found.score(array) for name, array in of.items()}
    return "; ".join(f"{(score > 1).sum()} of {len(score)} {name} are doubted" for name, score in scores.items())
