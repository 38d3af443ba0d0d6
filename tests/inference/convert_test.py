"""Exports agree with the model they were made from, for every family, alone and as an ensemble."""

import dataclasses

import jax
import numpy as np
import pytest
import safetensors.numpy

from bt_jax.common.errors import UsageError
from bt_jax.inference import convert, loading, model_file
from tests import small_models

FAMILIES = {
    "efficientnet_nano": {"hidden": (6,), "size": 40},
    "cnn": {"filters": (4, 6), "hidden": (5,), "size": 18},
    "mlp": {"hidden": (6, 5), "size": 12},
    "vgg_nano": {"hidden": (6,), "size": 36},
}


def written(folder, name, *, members=1, plain=False):
    return small_models.write(folder / "model.safetensors", name, members=members, plain=plain, **FAMILIES[name])


@pytest.mark.parametrize(
    "name", ["cnn", "mlp", *(pytest.param(name, marks=pytest.mark.slow) for name in ("efficientnet_nano", "vgg_nano"))]
)
def test_onnx_agrees(name, tmp_path):
    model = written(tmp_path, name)
    images = small_models.images(4, model.preprocessing.size)
    difference = convert.write(tmp_path / "model.onnx", model, form="onnx", images=images)
    assert difference.images == 4
    assert 0 < difference.logits < 1e-5 and difference.probabilities < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("efficientnet_lite0", {"size": 32}),
        ("efficientnet_nano", {"size": 40, "padding": "symmetric"}),
        ("cnn", {"filters": (4,), "hidden": (), "size": 9, "channels": 3}),
        ("mlp", {"hidden": (), "size": 8}),
        ("vgg_nano", {"classifier": True, "size": 64}),
    ],
)
def test_onnx_agrees_with_other_options(name, options, tmp_path):
    model = small_models.write(tmp_path / "model.safetensors", name, plain=True, **options)
    images = small_models.images(3, options["size"])
    assert convert.write(tmp_path / "model.onnx", model, form="onnx", images=images).logits < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_stablehlo_agrees(name, tmp_path):
    model = written(tmp_path, name)
    images = small_models.images(4, model.preprocessing.size)
    difference = convert.write(tmp_path / "model.stablehlo", model, form="stablehlo", images=images)
    assert difference.logits < 1e-5 and difference.probabilities < 1e-5


@pytest.mark.parametrize("form", convert.FORMATS)
def test_a_file_answers_with_the_mirror_image_where_its_model_does(form, tmp_path):
    plain = small_models.write(tmp_path / "plain.safetensors", "mlp", hidden=(6,), size=12)
    mirrored = small_models.write(tmp_path / "model.safetensors", "mlp", hidden=(6,), size=12, mirrored=True)
    images = small_models.images(5, 12)
    expected = (plain.predict_logits(images) + plain.predict_logits(images[:, :, ::-1])) / 2
    np.testing.assert_allclose(mirrored.predict_logits(images), expected, atol=1e-5)
    convert.write(tmp_path / f"a.{form}", mirrored, form=form, images=images)
    loaded = loading.load(tmp_path / f"a.{form}")
    assert loaded.description.mirrored and not plain.description.mirrored
    np.testing.assert_allclose(loaded.predict_logits(images), expected, atol=1e-5)


@pytest.mark.parametrize("form", convert.FORMATS)
def test_an_ensemble_is_one_file(form, tmp_path):
    model = written(tmp_path, "mlp", members=2)
    images = small_models.images(5, 12)
    assert model.predict_logits(images).shape == (2, 5, 4)
    out = tmp_path / f"ensemble.{form}"
    assert convert.write(out, model, form=form, images=images).is_within(convert.TOLERANCE)
    loaded = loading.load(out)
    np.testing.assert_allclose(loaded.predict_logits(images), model.predict_logits(images), atol=1e-5)
    np.testing.assert_allclose(loaded.predict(images).ood_scores, model.predict(images).ood_scores, rtol=1e-3)
    np.testing.assert_allclose(loaded.predict_probabilities(images), model.predict_probabilities(images), atol=1e-6)


def test_without_temperature_and_ood_model(tmp_path):
    """A workdir of an older version: probabilities are the plain softmax, and there is no OOD score."""
    model = written(tmp_path, "mlp", plain=True)
    images = small_models.images(3, 12)
    for form in convert.FORMATS:
        convert.write(tmp_path / form, model, form=form, images=images)
        loaded = loading.load(tmp_path / form)
        assert loaded.temperature is None and loaded.predict(images).ood_scores is None
        np.testing.assert_allclose(loaded.predict_probabilities(images), model.predict_probabilities(images), atol=1e-6)


def test_a_file_that_answers_differently_is_not_written(tmp_path, monkeypatch):
    """The content is made from other weights than those it is compared with."""
    model = written(tmp_path, "mlp")
    (other,) = model.networks
    params = {**other.params, "head": {"output": {**other.params["head"]["output"]}}}
    params["head"]["output"]["bias"] = params["head"]["output"]["bias"] + 0.01
    wrong = dataclasses.replace(model, networks=(dataclasses.replace(other, params=params),))
    out = tmp_path / "model.out"
    out.write_bytes(b"what was there")
    for form in convert.FORMATS:
        with pytest.raises(UsageError, match=rf"the outputs of the {form} file differ .* was not written"):
            convert.write(out, wrong, form=form, images=small_models.images(3, 12))
    assert out.read_bytes() == b"what was there"


def test_half_the_bytes_give_nearly_the_same_answers(tmp_path, monkeypatch):
    """Large arrays lose bits, small ones do not."""
    monkeypatch.setattr(model_file, "LARGE", 100)
    model = written(tmp_path, "cnn")
    images = small_models.images(6, model.preprocessing.size)
    whole, half = tmp_path / "whole.safetensors", tmp_path / "half.safetensors"
    convert.write(whole, model, form="safetensors", images=images)
    difference = convert.write(half, model, form="safetensors", images=images, half=True)
    assert 0 < difference.probabilities < convert.HALF_TOLERANCE and difference.images == 6
    assert 0 < difference.ood_scores < 0.1
    before, after = safetensors.numpy.load_file(whole), safetensors.numpy.load_file(half)
    assert any(array.dtype == np.float16 for array in after.values())
    for name, array in before.items():
        if name.startswith("networks.") and array.size > 100:
            np.testing.assert_array_equal(after[name], array.astype(np.float16))
        else:
            np.testing.assert_array_equal(after[name], array)
    loaded = loading.load(half)
    assert {leaf.dtype for leaf in jax.tree.leaves(loaded.networks[0].params)} == {np.dtype("float32")}
    np.testing.assert_allclose(loaded.predict(images).ood_scores, model.predict(images).ood_scores, rtol=1e-2)


def test_only_safetensors_files_have_half_the_bytes(tmp_path):
    with pytest.raises(ValueError, match="a file of the form onnx has no float16 weights"):
        convert.write(
            tmp_path / "a", written(tmp_path, "mlp"), form="onnx", images=small_models.images(2, 12), half=True
        )


def test_not_a_number_is_not_small():
    assert not convert.Difference(images=1, probabilities=float("nan"), logits=0.0).is_within(1.0)


def test_a_program_is_not_exported_again(tmp_path):
    model = dataclasses.replace(written(tmp_path, "mlp"), networks=())
    with pytest.raises(UsageError, match="holds no networks to export"):
        convert.write(tmp_path / "out", model, form="onnx", images=small_models.images(2, 12))
