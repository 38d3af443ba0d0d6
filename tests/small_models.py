"""Models for tests of what is done with trained ones: small networks with random weights, and their files."""

import dataclasses
import pathlib
from typing import Any

import jax
import numpy as np

from bt_jax.data.class_labels import BRAIN_TUMOR_CLASSES
from bt_jax.data.preprocess import Preprocessing
from bt_jax.inference import loading, model_file, ood
from bt_jax.inference.description import ModelDescription
from bt_jax.inference.trained_model import TrainedModel
from bt_jax.metrics.calibration import Temperature
from bt_jax.models.normalise import IMAGENET

TEMPERATURE = Temperature(value=1.7, fitted_on="the 20 validation images", images=20, step=3)


def images(count: int, size: int, *, seed: int = 0) -> np.ndarray:
    """[count, size, size] uint8."""
    return np.random.default_rng(seed).integers(0, 256, (count, size, size)).astype(np.uint8)


def write(
    path: pathlib.Path,
    name: str,
    *,
    size: int,
    members: int = 1,
    plain: bool = False,
    mirrored: bool = False,
    **options: Any,
) -> TrainedModel:
    """Writes a model to a safetensors file and loads it.

    Args:
      path: of the file.
      name: of the network.
      size: side of its images.
      members: networks of the ensemble.
      plain: without temperature and OOD model, as a workdir of an older version.
      mirrored: whether it answers with the mean over an image and its mirror image.
      **options: of the network.
    """
    description = ModelDescription(
        name=name,
        options=options,
        class_names=BRAIN_TUMOR_CLASSES,
        preprocessing=Preprocessing(size=size).to_dict(),
        normalisation=dataclasses.asdict(IMAGENET),
        weights="random weights",
        weights_sha256=None,
        synthetic=True,
        mirrored=mirrored,
    )
    networks = []
    for seed in range(members):
        _, params, batch_stats = description.create_network(seed=seed)
        networks.append({"params": _varied(params, seed), "batch_stats": _varied(batch_stats, seed + 100)})
    stored = model_file.StoredModel(
        description=dataclasses.asdict(description), temperature=None, ood_models=(), networks=networks
    )
    path.write_bytes(model_file.encode_safetensors(stored))
    if plain:
        return loading.load(path, batch_size=4)
    features = loading.load(path, batch_size=4).compute(images(30, size, seed=1))[1]
    ood_models = [ood.fit(one[:20], one[20:], fitted_on="the 10 validation images", step=3) for one in features]
    stored = dataclasses.replace(stored, temperature=TEMPERATURE, ood_models=[one for one in ood_models if one])
    path.write_bytes(model_file.encode_safetensors(stored))
    return loading.load(path, batch_size=4)


def _varied(tree: Any, seed: int) -> Any:
    """The arrays times factors near 1 and off zero, so that no scale is 1 and no shift 0."""
    generator = np.random.default_rng(seed)

    def varied(leaf: jax.Array) -> np.ndarray:
        factor, shift = generator.uniform(0.8, 1.25, leaf.shape), generator.uniform(0.0, 0.1, leaf.shape)
        return (np.asarray(leaf) * factor + (shift if leaf.ndim == 1 else 0)).astype(np.float32)

    return jax.tree.map(varied, tree)
