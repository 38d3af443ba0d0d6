"""Files of models: what is written is read again, and what is no such file is refused in one line."""

import json
import zipfile

import numpy as np
import pytest
import safetensors.numpy

from bt_jax.common.errors import UsageError
from bt_jax.inference import convert, loading
from tests import small_models


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return small_models.write(
        tmp_path_factory.mktemp("model") / "m.safetensors", "cnn", size=16, filters=(4, 6), hidden=(5,)
    )


@pytest.fixture(scope="module")
def stablehlo(model, tmp_path_factory):
    path = tmp_path_factory.mktemp("file") / "model.stablehlo"
    convert.write(path, model, form="stablehlo", images=small_models.images(3, 16))
    return path


def test_a_network_answers_as_before(model, tmp_path):
    path = tmp_path / "again.safetensors"
    convert.write(path, model, form="safetensors", images=small_models.images(3, 16))
    again = loading.load(path, batch_size=4)
    images = small_models.images(9, 16, seed=4)
    np.testing.assert_array_equal(again.predict_probabilities(images), model.predict_probabilities(images))
    np.testing.assert_array_equal(again.predict(images).ood_scores, model.predict(images).ood_scores)
    assert again.description == model.description
    assert again.temperature == model.temperature == small_models.TEMPERATURE
    assert again.notice == model.notice and "SYNTHETIC" in (again.notice or "")
    assert again.folders == ()


def test_a_program_answers_as_the_network(model, stablehlo):
    program = loading.load(stablehlo, batch_size=4)
    images = small_models.images(9, 16, seed=4)
    np.testing.assert_allclose(program.predict_logits(images), model.predict_logits(images), atol=1e-5)
    np.testing.assert_allclose(program.predict(images).ood_scores, model.predict(images).ood_scores, rtol=1e-3)
    assert program.description == model.description
    assert program.temperature == model.temperature
    assert program.networks == ()
    assert program.predict(images[:0]).logits.shape == (1, 0, 4)


def test_the_header_says_what_others_need(model, tmp_path):
    path = tmp_path / "model.safetensors"
    convert.write(path, model, form="safetensors", images=small_models.images(3, 16))
    with safetensors.safe_open(path, framework="numpy") as file:
        header, names = file.metadata(), set(file.keys())
    assert json.loads(header["class_names"]) == list(model.class_names)
    assert json.loads(header["preprocessing"]) == model.preprocessing.to_dict()
    assert json.loads(header["temperature"])["value"] == 1.7
    assert "networks.0.params.conv_1.conv_1.kernel" in names


def test_a_program_runs_without_this_package(model, stablehlo):
    """As the description of the file says, in batches of any size."""
    import jax.export

    with zipfile.ZipFile(stablehlo) as archive:
        exported = jax.export.deserialize(bytearray(archive.read("program.jax_export")))
        weights = safetensors.numpy.load(archive.read("weights.safetensors"))
        notes = json.loads(archive.read("model.json"))
    assert exported.platforms == ("cpu", "cuda", "tpu")
    assert notes["class_names"] == list(model.class_names)
    for count in (1, 5):
        images = small_models.images(count, 16, seed=count)
        outputs = exported.call(weights, images.astype(np.float32) / 255)
        np.testing.assert_allclose(outputs["probabilities"], model.predict_probabilities(images), atol=1e-5)
        assert outputs["logits"].shape == (count, 1, 4)


def test_no_weight_is_a_constant_of_the_program(model, stablehlo):
    import jax.export

    with zipfile.ZipFile(stablehlo) as archive:
        weights = safetensors.numpy.load(archive.read("weights.safetensors"))
        text = jax.export.deserialize(bytearray(archive.read("program.jax_export"))).mlir_module()
    constants = [line for line in text.splitlines() if "stablehlo.constant" in line]
    shapes = {"x".join(map(str, array.shape)) for array in weights.values() if array.ndim > 1}
    assert constants and shapes
    assert not [line for line in constants for shape in shapes if f"tensor<{shape}xf32>" in line]


def test_the_same_model_gives_the_same_bytes(model, stablehlo, tmp_path):
    convert.write(tmp_path / "again", model, form="stablehlo", images=small_models.images(3, 16))
    with zipfile.ZipFile(stablehlo) as one, zipfile.ZipFile(tmp_path / "again") as other:
        for name in ("model.json", "doubts.safetensors", "weights.safetensors"):
            assert one.read(name) == other.read(name)


@pytest.mark.parametrize("content", [b"", b"nonsense", b"PK\x03\x04 cut short", bytes(64)])
def test_nonsense_is_refused(tmp_path, content):
    (tmp_path / "model").write_bytes(content)
    with pytest.raises(UsageError, match="damaged") as caught:
        loading.load(tmp_path / "model")
    assert "\n" not in str(caught.value)


def test_a_program_cut_short_is_refused(stablehlo, tmp_path):
    with zipfile.ZipFile(stablehlo) as archive, zipfile.ZipFile(tmp_path / "cut", "w") as cut:
        for name in archive.namelist():
            content = archive.read(name)
            cut.writestr(name, content[:100] if name == "program.jax_export" else content)
    with pytest.raises(UsageError, match="damaged"):
        loading.load(tmp_path / "cut")


def test_other_weights_are_refused(tmp_path):
    safetensors.numpy.save_file({"a": np.zeros(3, np.float32)}, tmp_path / "weights.safetensors")
    with pytest.raises(UsageError, match="holds weights but no bt_jax model"):
        loading.load(tmp_path / "weights.safetensors")


def test_weights_of_another_network_are_refused(model, tmp_path):
    path = tmp_path / "model.safetensors"
    convert.write(path, model, form="safetensors", images=small_models.images(3, 16))
    with safetensors.safe_open(path, framework="numpy") as file:
        tensors, header = {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118
    header["options"] = json.dumps({"filters": [4, 7], "hidden": [5]})
    safetensors.numpy.save_file(tensors, path, header)
    with pytest.raises(UsageError, match="the weights do not fit cnn"):
        loading.load(path)
