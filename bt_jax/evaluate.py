"""Scores a trained model on a folder of labelled images: Training/<class>/ and Testing/<class>/, or <class>/ alone.

    python -m bt_jax.evaluate --model=runs/effnet_cpu --data=data/brain_tumor_mri --out=scores
    python -m bt_jax.evaluate --model=runs/effnet_cpu --data=archive.zip --split=Training --out=scores
    python -m bt_jax.evaluate --data=other_hospital --out=scores

Images with a near-duplicate in the model's training or validation images are leaked. The scores on the other images,
the clean ones, come first. This is a research tool, not a medical device.
"""

import pathlib

import numpy as np
from absl import flags

from bt_jax.common import cli, files, waiting
from bt_jax.common.errors import UsageError
from bt_jax.inference import shipped_model

_MODEL = flags.DEFINE_string(
    "model",
    None,
    "Workdir of a run or of a cross-validation, or an exported file. Default: the model that ships with bt_jax.",
)
_ENGINE = flags.DEFINE_enum(
    "engine", "auto", ["auto", "onnxruntime", "openvino"], "What runs ONNX files; JAX runs all others."
)
_DATA = flags.DEFINE_string("data", "", "Folder or zip of images in class folders.")
_SPLIT = flags.DEFINE_enum("split", "Testing", ["Testing", "Training"], "Part of the data to score.")
_OUT = flags.DEFINE_string("out", "", "Folder for metrics.json, predictions.csv and the figures.")
_MAX_UNREADABLE = flags.DEFINE_integer(
    "max_unreadable", 10, "Number of unreadable files to skip; more are an error.", 0
)
_BATCH_SIZE = flags.DEFINE_integer("batch_size", 32, "Images per step.", 1)


def main() -> None:
    """Scores the model and writes the report files."""
    for flag in (_DATA, _OUT):
        if not flag.value:
            raise UsageError(f"--{flag.name} is missing: see --help")
    (chosen,) = shipped_model.choose([] if _MODEL.value is None else [_MODEL.value])
    out = pathlib.Path(_OUT.value)
    files.check_folder(out, flag="out")
    # Imported here so that --help does not wait for JAX.
    from bt_jax.data import dataset, leakage, patient_groups, sources
    from bt_jax.inference import loading
    from bt_jax.metrics.by_patient import Patients
    from bt_jax.metrics.calibration import Calibration
    from bt_jax.reports import score_text, split_report

    loading.check_engine(_ENGINE.value, [chosen])
    if not loading.is_onnx(chosen):
        cli.prepare_to_compute()
    if _MODEL.value is None:
        print(f"model: {shipped_model.describe([chosen])}")
    model = loading.load(chosen, batch_size=_BATCH_SIZE.value, engine=_ENGINE.value)
    source = sources.open_path(_DATA.value, field="--data", class_names=model.class_names)
    for warning in source.warnings:
        print(f"warning: {warning}")
    images = dataset.load(
        source.select_split(_SPLIT.value),
        preprocessing=model.preprocessing,
        max_unreadable=_MAX_UNREADABLE.value,
        warn=lambda line: print(f"warning: {line}"),
    )
    if not len(images):
        raise UsageError(f"{_DATA.value} has no images in {_SPLIT.value}/<class>/: choose another --split")
    leaked = np.zeros(len(images), bool)
    if pathlib.Path(chosen) == shipped_model.FILE:
        seen = shipped_model.list_fingerprints()
        leaked = np.array([fingerprint in seen for fingerprint in images.fingerprints], bool)
        print("warning: leaked images are identified by equal pixels alone, so near-duplicates count as clean")
    elif not model.folders:
        print(f"warning: {chosen} does not list its training images, so leaked images are not identified")
    for folder in model.folders:
        leaked |= leakage.has_near_duplicate(images, *leakage.read(folder))
    groups = patient_groups.group_by_patient(images, source.groups)
    with waiting.report(f"predicting {len(images):,} images"):
        logits, ood_scores = model.predict(images.images)
    if ood_scores is not None and (ood_scores > 1).any():
        outliers = (ood_scores > 1).sum()
        print(f"warning: {outliers} of {len(images)} images do not look like the training images")
    temperature = model.temperature
    result = split_report.write_split_report(
        out,
        split=_SPLIT.value.lower(),
        paths=images.paths,
        labels=images.labels,
        probabilities=model.compute_probabilities(logits),
        class_names=model.class_names,
        leaked=leaked,
        patients=Patients(*groups) if groups else None,
        change=Calibration(
            uncalibrated=model.compute_probabilities(logits, calibrated=False),
            temperature=temperature.value,
            fitted_on=temperature.fitted_on,
            biased=False,
        )
        if temperature
        else None,
        notice=model.notice,
    )
    print(score_text.summarise_scores(result))
    print(score_text.describe_calibration(result))
    print(f"report: {out}")


if __name__ == "__main__":
    cli.run(main)
