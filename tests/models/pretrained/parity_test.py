"""Whole models carried over from reference implementations through real files; skipped where those are not installed.

`tests/models/golden_test.py` checks the same logits everywhere, by stored values.
"""

import pathlib
import types
from typing import Any

import h5py
import jax
import numpy as np
import pytest

from bt_jax.models import registry
from bt_jax.models.normalise import IMAGENET
from bt_jax.models.pretrained import efficientnet_names, sources, vgg_names
from tests import published

CLASSES = 1000
# PyTorch and Keras warn of their own use of other libraries and of old file formats.
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning", "ignore::FutureWarning"),
    pytest.mark.usefixtures("optimised_programs"),
]


@pytest.fixture(scope="module", params=["efficientnet_nano", pytest.param("efficientnet_b1", marks=pytest.mark.slow)])
def made(request: pytest.FixtureRequest, procedural: types.ModuleType) -> Any:
    variant = request.param
    network, params, batch_stats = registry.create(variant, classes=CLASSES)
    gain = procedural.GAINS[variant]
    return network, procedural.weights(params, gain=gain), procedural.weights(batch_stats, gain=gain)


def assert_same_logits(path: pathlib.Path, made: Any, raw: np.ndarray, theirs: np.ndarray) -> None:
    """Loads the file as a user would, and compares trees exactly and logits closely."""
    network, *expected = made
    weights = sources.resolve(str(path), model=network.name)
    network, *trees = registry.create(network.name, classes=CLASSES, **weights.options)
    loaded = weights.load(network, *trees, head=True)
    assert jax.tree.all(jax.tree.map(np.array_equal, loaded, tuple(expected)))
    images = np.float32((raw / 255 - weights.normalisation.mean) / weights.normalisation.std)
    ours = np.asarray(jax.jit(lambda *x: network.apply(*x)[0])(*loaded, images))
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-4 * np.abs(theirs).max())


@pytest.mark.parametrize("tensorflow", [True, False])
def test_timm(
    tensorflow: bool, made: Any, reference: types.ModuleType, procedural: types.ModuleType, tmp_path: pathlib.Path
) -> None:
    import safetensors.torch
    import torch

    network, *trees = made
    model = reference.timm_model(network.name, classes=CLASSES, tensorflow=tensorflow)
    reference.fill_torch(model, published.rename_as_timm(network.name, *trees))
    raw = procedural.images(2, network.size)
    theirs = reference.torch_logits(model, np.float32((raw / 255 - IMAGENET.mean) / IMAGENET.std))
    stem = ("tf_" if tensorflow else "") + network.name
    torch.save(model.state_dict(), tmp_path / f"{stem}_zip.pth")
    torch.save({"model": model.state_dict()}, tmp_path / f"{stem}.pt", _use_new_zipfile_serialization=False)
    safetensors.torch.save_model(model, str(tmp_path / f"{stem}.safetensors"))
    for file in sorted(tmp_path.iterdir()):
        assert_same_logits(file, made, raw, theirs)


def test_keras(made: Any, reference: types.ModuleType, procedural: types.ModuleType, tmp_path: pathlib.Path) -> None:
    network, *trees = made
    model = reference.fill_keras(
        reference.keras_model(network.name, classes=CLASSES),
        published.rename(network.name, *trees, efficientnet_names.KERAS),
        mean=(0.4, 0.5, 0.6),
        variance=(0.05, 0.06, 0.07),
    )
    raw = procedural.images(2, network.size)
    theirs = np.asarray(model.predict(raw, verbose=0))
    model.save_weights(tmp_path / "a.weights.h5")
    model.save(tmp_path / "b.h5")
    model.save_weights(tmp_path / "early.weights.h5")
    with h5py.File(tmp_path / "early.weights.h5", "r+") as file:
        for layer in file["layers"].values():
            del layer["vars"].attrs["name"]  # as in the first releases of Keras 3
    for file in sorted(tmp_path.iterdir()):
        assert_same_logits(file, made, raw, theirs)


@pytest.mark.slow
@pytest.mark.parametrize("framework", ["keras", "torchvision"])
def test_vgg16(
    framework: str, reference: types.ModuleType, procedural: types.ModuleType, tmp_path: pathlib.Path
) -> None:
    """At 64 pixels, where the classifier is smaller and the order in which it sees the map still matters."""
    import safetensors.torch
    import torch

    network, params, _ = registry.create("vgg16", classes=10, size=64, classifier=True)
    params = procedural.weights(params, gain=procedural.GAINS["vgg16"])
    raw = procedural.images(2, 64)
    if framework == "keras":
        model = reference.fill_keras(
            reference.keras_vgg16(size=64, classes=10), published.rename("vgg16", params, {}, vgg_names.KERAS)
        )
        theirs = np.asarray(model.predict(reference.keras.applications.vgg16.preprocess_input(raw.copy()), verbose=0))
        model.save_weights(tmp_path / "a.weights.h5")
        model.save(tmp_path / "b.h5")
        raw = raw[..., ::-1]  # the first kernel wants blue first
    else:
        model = reference.fill_torch(
            reference.torchvision_vgg16(size=64, classes=10),
            published.rename("vgg16", params, {}, vgg_names.TORCHVISION),
        )
        theirs = reference.torch_logits(model, np.float32((raw / 255 - IMAGENET.mean) / IMAGENET.std))
        torch.save(model.state_dict(), tmp_path / "a.pth")
        safetensors.torch.save_model(model, str(tmp_path / "b.safetensors"))
    for path in sorted(tmp_path.iterdir()):
        weights = sources.resolve(str(path), model="vgg16")
        _, *empty = registry.create("vgg16", classes=10, size=64, classifier=True, seed=1, **weights.options)
        loaded, _ = weights.load(network, *empty, head=True)
        assert jax.tree.all(jax.tree.map(np.array_equal, loaded, params))
        images = np.float32((raw / 255 - weights.normalisation.mean) / weights.normalisation.std)
        ours = np.asarray(jax.jit(lambda *x: network.apply(*x)[0])(loaded, {}, images))
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-4 * np.abs(theirs).max())


def test_keras_with_its_second_rescaling(
    procedural: types.ModuleType, reference: types.ModuleType, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What Keras builds for weights="imagenet" scales as we do, from a published file and from a model saved later."""
    import keras

    network, params, batch_stats = registry.create("efficientnet_nano", classes=CLASSES)
    made = (network, procedural.weights(params, gain=2.1), procedural.weights(batch_stats, gain=2.1))
    arrays = published.rename(network.name, *made[1:], efficientnet_names.KERAS)
    path = tmp_path / "published.h5"
    # In the published files the variance is a standard deviation.
    plain = reference.keras_model(network.name, classes=CLASSES)
    reference.fill_keras(plain, arrays, mean=IMAGENET.mean, variance=IMAGENET.std).save(path)
    monkeypatch.setattr(reference.keras_efficientnet.file_utils, "get_file", lambda *unused, **options: str(path))
    model = reference.keras_efficientnet.EfficientNet(
        0.25, 0.3, 96, name="nano", weights="imagenet", weights_name="b0", classes=CLASSES, classifier_activation=None
    )
    raw = procedural.images(2, network.size)
    theirs = np.asarray(model.predict(raw, verbose=0))
    assert sum(isinstance(layer, keras.layers.Rescaling) for layer in model.layers) == 2
    model.save_weights(tmp_path / "later.weights.h5")
    model.save(tmp_path / "later.h5")
    for file in ("later.weights.h5", "later.h5"):
        assert_same_logits(tmp_path / file, made, raw, theirs)
    monkeypatch.setattr(sources, "_OFFICIAL_MD5", {sources._hash_file(path, "md5")})
    assert_same_logits(path, made, raw, theirs)
