"""The trained model of the package: which commands take it, what it is called, and what its file holds."""

import json
import re

import numpy as np
import pytest
import safetensors.numpy

from bt_jax.common.errors import UsageError
from bt_jax.data.class_labels import BRAIN_TUMOR_CLASSES
from bt_jax.inference import shipped_model, trained_model
from bt_jax.models.pretrained import safetensors_file


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
    assert all(array.dtype == (np.float16 if array.ndim > 1 else np.float32) for array in weights)
    assert all(np.isfinite(array).all() for array in tensors.values())
    header = {name: json.loads(text) for name, text in safetensors_file.read_metadata(shipped_model.FILE).items()}
    assert tuple(header["class_names"]) == BRAIN_TUMOR_CLASSES and not header["synthetic"]
    assert header["confidence_limit"]["accuracy"] >= 0.97
    for one in (header["temperature"], header["confidence_limit"]):
        assert "out-of-fold predictions" in one["fitted_on"]


@pytest.mark.slow
def test_it_answers():
    model = trained_model.load(shipped_model.FILE)
    size = model.preprocessing.size
    noise = np.random.default_rng(0).integers(0, 256, (2, size, size)).astype(np.uint8)
    outputs = model.predict(noise)
    assert np.isfinite(outputs.logits).all()
    assert (outputs.ood_scores > 1).all()  # noise is no slice of a brain


def test_the_card_says_what_it_is_made_from():
    card = shipped_model.CARD.read_text(encoding="utf-8")
    for said in ("research tool", "not a medical device", "## Answers without a warning", "## Limits", "CC BY 4.0"):
        assert said in card
