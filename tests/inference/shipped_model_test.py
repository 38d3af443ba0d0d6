"""The trained model of the package: which commands take it, what it is called, and what its file holds."""

import json
import os
import re
import sys

import numpy as np
import pytest
import safetensors.numpy

from bt_jax.common.errors import UsageError
from bt_jax.data.class_labels import BRAIN_TUMOR_CLASSES
from bt_jax.inference import loading, model_file, shipped_model
from bt_jax.models.pretrained import safetensors_file
from tests import phantom_folder, runs


def test_it_is_the_model_where_none_is_given(monkeypatch, tmp_path):
    assert shipped_model.choose([]) == [str(shipped_model.FILE)]
    assert shipped_model.choose(["a", "b"]) == ["a", "b"]
    monkeypatch.setattr(shipped_model, "FILE", tmp_path / "gone.safetensors")
    with pytest.raises(UsageError, match="--model is missing, and so is the trained model of the package"):
        shipped_model.choose([])


def test_an_empty_name_is_no_model():
    with pytest.raises(UsageError, match="--model is empty"):
        shipped_model.choose([""])


def test_it_is_named_by_its_content():
    name = shipped_model.name(str(shipped_model.FILE))
    assert re.fullmatch("brain_tumor_mri [0-9a-f]{8}", name)
    assert shipped_model.name("runs/first") == "first" and shipped_model.name(".") == "."
    assert (
        shipped_model.describe([str(shipped_model.FILE)])
        == f"{name} (ships with bt_jax; its card: {shipped_model.CARD})"
    )
    assert shipped_model.describe(["runs/a", "runs/b"]) == "runs/a; runs/b"


def test_the_file_is_small_and_complete():
    assert shipped_model.FILE.stat().st_size <= 10e6
    tensors = safetensors.numpy.load_file(shipped_model.FILE)
    weights = [array for name, array in tensors.items() if name.startswith("networks.")]
    assert all(array.dtype == (np.float16 if array.size > model_file.LARGE else np.float32) for array in weights)
    assert all(np.isfinite(array).all() for array in tensors.values())
    header = {name: json.loads(text) for name, text in safetensors_file.read_metadata(shipped_model.FILE).items()}
    assert tuple(header["class_names"]) == BRAIN_TUMOR_CLASSES and not header["synthetic"]
    assert header["confidence_limit"]["accuracy"] >= 0.97
    for one in (header["temperature"], header["confidence_limit"]):
        assert "out-of-fold predictions" in one["fitted_on"]


@pytest.mark.slow
def test_it_answers():
    model = loading.load(shipped_model.FILE)
    size = model.preprocessing.size
    noise = np.random.default_rng(0).integers(0, 256, (2, size, size)).astype(np.uint8)
    outputs = model.predict(noise)
    assert np.isfinite(outputs.logits).all()
    assert (outputs.ood_scores > 1).all()  # noise is no slice of a brain


def test_the_card_says_what_it_is_made_from():
    card = shipped_model.CARD.read_text(encoding="utf-8")
    for said in ("research tool", "not a medical device", "## Answers without a warning", "## Limits", "CC BY 4.0"):
        assert said in card


@pytest.mark.slow
def test_commands_without_a_model_take_it_and_say_so(tmp_path):
    phantom_folder.write(tmp_path / "data", training_per_class=2, testing_per_class=2, seed=1)
    name = shipped_model.name(str(shipped_model.FILE))
    python = [sys.executable, "-m"]
    predicted = runs.run([*python, "bt_jax.predict", str(tmp_path / "data" / "Testing")])
    assert predicted.returncode == 0 and f"model: {name} (ships with bt_jax" in predicted.stderr
    assert len(predicted.stdout.splitlines()) == 8
    scored = runs.run([*python, "bt_jax.evaluate", f"--data={tmp_path / 'data'}", f"--out={tmp_path / 'scores'}"])
    assert scored.returncode == 0 and f"model: {name} (ships with bt_jax" in scored.stdout
    assert json.loads((tmp_path / "scores" / "metrics.json").read_bytes())["n"] == 8
    empty = runs.run(
        [*python, "bt_jax.evaluate", "--model=", f"--data={tmp_path / 'data'}", f"--out={tmp_path / 'no'}"]
    )
    assert empty.returncode == 2 and "--model is empty" in empty.stderr and not (tmp_path / "no").exists()


@pytest.mark.slow
@pytest.mark.real_data
def test_the_images_that_it_was_trained_on_are_leaked(tmp_path):
    ended = runs.run([sys.executable, "-m", "bt_jax.evaluate", f"--data={os.environ['BT_DATA']}", f"--out={tmp_path}"])
    assert ended.returncode == 0, ended.stderr
    result = json.loads((tmp_path / "metrics.json").read_bytes())
    assert result["subsets"]["leaked"]["n"] == 251  # equal to a Training image, pixel by pixel
