"""Models that nobody trained, in workdirs as runs leave them: they answer in milliseconds and tell all pixels apart."""

import dataclasses
import pathlib

import numpy as np

from bt_jax.data.class_labels import BRAIN_TUMOR_CLASSES
from bt_jax.data.preprocess import Preprocessing
from bt_jax.inference.description import ModelDescription
from bt_jax.metrics import calibration
from bt_jax.metrics.calibration import Temperature
from bt_jax.models.normalise import LITE
from bt_jax.workdir.checkpoint import Checkpoints


def write(
    workdir: pathlib.Path,
    *,
    seed: int = 0,
    size: int = 32,
    class_names: tuple[str, ...] = BRAIN_TUMOR_CLASSES,
    form: str = "head",
    synthetic: bool = False,
    temperature: float | None = 1.5,
    step: int = 5,
    best_step: int = 5,
) -> pathlib.Path:
    """A dense network with random weights as the best checkpoint of a run."""
    description = ModelDescription(
        name="mlp", options={"hidden": (16,), "channels": 1}, class_names=class_names,
        preprocessing=Preprocessing(form=form, size=size).to_dict(), normalisation=dataclasses.asdict(LITE),
        weights="random weights", weights_sha256=None, synthetic=synthetic,
    )  # fmt: skip
    _, params, batch_stats = description.create_network(seed=seed)
    checkpoints = Checkpoints(workdir)
    checkpoints.save(
        step, evaluation={"params": params, "batch_stats": batch_stats}, training={"step": np.int32(step)},
        metadata={"model": dataclasses.asdict(description), "progress": {"best_step": best_step}},
        best_step=best_step,
    )  # fmt: skip
    checkpoints.close()
    if temperature:
        calibration.write(workdir, Temperature(temperature, "nothing", 0, best_step))
    return workdir
