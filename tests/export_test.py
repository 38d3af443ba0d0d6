"""The export command: what it says, what it writes, what it refuses."""

import os
import sys

import numpy as np
import pytest

from bt_jax.inference import loading
from tests import phantom_folder, runs, small_models


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A folder with the safetensors file of a small model in it."""
    folder = tmp_path_factory.mktemp("export")
    small_models.write(folder / "model.safetensors", "mlp", size=12, hidden=(5,))
    return folder


def export(*flags: str):
    return runs.run([sys.executable, "-m", "bt_jax.export", *flags])


def test_a_file_becomes_another(model):
    out = model / "model.stablehlo"
    ended = export(f"--model={model / 'model.safetensors'}", "--format=stablehlo", f"--out={out}")
    assert ended.returncode == 0, ended.stderr
    lines = ended.stdout.splitlines()
    assert lines[0].startswith("compared on 16 images of built-in phantoms")
    assert "probabilities differ by" in lines[0]
    assert lines[1] == "warning: SYNTHETIC PHANTOMS: drawn by a program, not medical images"
    assert lines[2] == f"stablehlo: {out} (0.0 MB)"
    images = small_models.images(3, 12)
    expected = loading.load(model / "model.safetensors").predict_probabilities(images)
    np.testing.assert_allclose(loading.load(out).predict_probabilities(images), expected, atol=1e-6)


@pytest.mark.slow
def test_compared_on_images_that_are_named(model):
    phantom_folder.write(model / "data", training_per_class=4, testing_per_class=0, seed=1)
    (model / "data/Training/no_tumor/phantom_0001.png").write_bytes(b"not an image")
    flags = (f"--model={model / 'model.safetensors'}", f"--data={model / 'data'}")
    ended = export(*flags, "--format=onnx", f"--out={model / 'model.onnx'}")
    assert ended.returncode == 0, ended.stderr
    assert f"images of folder {model / 'data'}" in ended.stdout


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--model=M", "--out=O/x"], "--format is missing"),
        (["--model=M", "--format=tflite", "--out=O/x"], "stablehlo|onnx|safetensors"),
        (["--model=M", "--format=onnx", "--out=O"], "is a folder: give a file name"),
        (["--model=O", "--format=onnx", "--out=O/x"], "holds no checkpoint"),
        (["--model=M", "--format=onnx", "--out=O/x", "--data=nowhere"], "--data is 'nowhere', which does not exist"),
    ],
)
@pytest.mark.slow
def test_wrong_flags(model, tmp_path, flags, said):
    places = {"M": str(model / "model.safetensors"), "O": str(tmp_path), "O/x": str(tmp_path / "x")}
    given = [f"{name}={places.get(value, value)}" for name, _, value in (flag.partition("=") for flag in flags)]
    ended = export(*given)
    assert ended.returncode == 2
    assert said in ended.stderr
    assert "Traceback" not in ended.stderr
    assert len(ended.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "x").exists()


@pytest.mark.slow
@pytest.mark.real_data
def test_real_images(model):
    flags = (f"--model={model / 'model.safetensors'}", f"--data={os.environ['BT_DATA']}")
    for form in ("stablehlo", "onnx", "safetensors"):
        ended = export(*flags, f"--format={form}", f"--out={model / form}")
        assert ended.returncode == 0, ended.stderr
        assert "compared on 16 images of folder" in ended.stdout
