"""A trained model: one run, the folds of a cross-validation, and what does not fit together."""

import dataclasses
import json
import shutil
import subprocess
import sys

import numpy as np
import pytest

from bt_jax.common.errors import UsageError
from bt_jax.inference import jax_model, loading
from bt_jax.inference.forward import compute_outputs
from bt_jax.metrics import calibration
from bt_jax.metrics.calibration import Temperature
from tests import small_models, untrained

IMAGES = small_models.images(5, 32)


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> list[str]:
    folder = tmp_path_factory.mktemp("trained_model")
    return [str(untrained.write(folder / "first", seed=1)), str(untrained.write(folder / "second", seed=2))]


def softmax(logits: np.ndarray, temperature: float) -> np.ndarray:
    powers = np.exp(logits.astype(np.float64) / temperature)
    return powers / powers.sum(axis=-1, keepdims=True)


def test_the_probabilities_of_a_run_are_calibrated(runs):
    model = loading.load(runs[0])
    logits, ood_scores = model.predict(IMAGES)
    assert logits.shape == (1, 5, 4) and ood_scores is None
    np.testing.assert_allclose(model.predict_probabilities(IMAGES), softmax(logits[0], 1.5), rtol=1e-6)
    plain = model.compute_probabilities(logits, calibrated=False)
    np.testing.assert_allclose(plain, softmax(logits[0], 1.0), rtol=1e-6)


def test_no_images_have_no_answers(runs):
    outputs = loading.load(runs[0]).predict(IMAGES[:0])
    assert outputs.logits.shape == (1, 0, 4)


def test_folds_are_averaged_at_their_common_temperature(runs, tmp_path):
    for number, run in enumerate(runs):
        shutil.copytree(run, tmp_path / f"fold_{number}")
    with pytest.raises(UsageError, match="is not finished: run it to the end, or use one of its folds"):
        loading.load(tmp_path)
    (tmp_path / "cross_validation.json").write_text("{}")
    calibration.write(tmp_path, Temperature(2.0, "all folds", 10, None))
    model = loading.load(tmp_path)
    assert [folder.name for folder in model.folders] == ["fold_0", "fold_1"] and len(model.networks) == 2
    members = [loading.load(run).predict_logits(IMAGES)[0] for run in runs]
    np.testing.assert_allclose(model.predict_logits(IMAGES), members, rtol=1e-6)
    expected = np.mean([softmax(logits, 2.0) for logits in members], axis=0)
    np.testing.assert_allclose(model.predict_probabilities(IMAGES), expected, rtol=1e-6)


def test_folds_of_different_classes_are_no_ensemble(runs, tmp_path):
    shutil.copytree(runs[0], tmp_path / "fold_0")
    untrained.write(tmp_path / "fold_1", class_names=("a", "b"))
    (tmp_path / "cross_validation.json").write_text("{}")
    with pytest.raises(UsageError, match="differ in classes or preprocessing, so they are not one ensemble"):
        loading.load(tmp_path)


def test_restoring_gives_the_weights_that_predict(runs):
    description, weights = jax_model.restore(runs[0])
    (member,) = loading.load(runs[0]).networks
    assert description.class_names == ("glioma_tumor", "meningioma_tumor", "no_tumor", "pituitary_tumor")
    for name, layer in member.params.items():
        for leaf in layer:
            np.testing.assert_array_equal(_flat(weights["params"][name][leaf]), _flat(layer[leaf]))


def _flat(tree) -> np.ndarray:
    arrays = tree.values() if isinstance(tree, dict) else [tree]
    return np.concatenate([np.ravel(array) for array in arrays])


def test_a_folder_without_a_run(tmp_path):
    with pytest.raises(UsageError):
        loading.load(tmp_path)


def test_the_notice_of_a_model_of_phantoms(tmp_path, runs):
    model = loading.load(untrained.write(tmp_path / "run", synthetic=True))
    assert model.notice and "SYNTHETIC PHANTOMS" in model.notice
    assert loading.load(runs[0]).notice is None


def test_a_file_that_answered_before_is_answered_without_the_code_of_networks(tmp_path):
    """Flax, which takes as long to import as JAX, is made impossible to import."""
    path = tmp_path / "model.safetensors"
    expected = small_models.write(path, "efficientnet_nano", size=32).predict_logits(IMAGES[:1])
    answer = (
        "import json, sys\n"
        "import numpy as np\n"
        "sys.modules['flax'] = None\n"
        "from bt_jax.inference import loading\n"
        "images = np.array(json.load(sys.stdin), np.uint8)\n"
        "print(json.dumps(loading.load(sys.argv[1]).predict_logits(images).tolist()))\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", answer, str(path)],
        input=json.dumps(IMAGES[:1].tolist()), capture_output=True, encoding="utf-8", timeout=120,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    np.testing.assert_array_equal(np.array(json.loads(ended.stdout), np.float32), expected)


def test_a_small_input_makes_a_small_step(runs, monkeypatch):
    seen = []
    original = compute_outputs
    monkeypatch.setattr(jax_model, "compute_outputs", lambda *a, **k: seen.append(k["batch_size"]) or original(*a, **k))
    model = loading.load(runs[0], batch_size=20)
    for count in (1, 3, 17, 20, 50):
        assert model.predict_logits(np.zeros((count, 32, 32), np.uint8)).shape == (1, count, 4)
    assert seen == [1, 4, 20, 20, 20]
    assert dataclasses.replace(model).class_names == model.class_names
