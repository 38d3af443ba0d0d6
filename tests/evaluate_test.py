"""Scoring a trained model on a folder, as a command and as a library."""

import csv
import json
import sys

import numpy as np
import pytest

from bt_jax.common.errors import UsageError
from bt_jax.inference import loading
from bt_jax.metrics.calibration import softmax
from bt_jax.training import train
from tests import phantom_folder, runs, sharing


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run on a folder of phantoms, and the folder."""

    def make(folder):
        phantom_folder.write(folder / "data", training_per_class=25, testing_per_class=4, seed=0)
        config = runs.small_config(data__source="folder", data__dir=str(folder / "data"), stages__count=1)
        assert train.train_and_evaluate(config, folder / "run") == 0

    return sharing.make_once(tmp_path_factory, "evaluate", make)


def evaluate(*flags: str):
    return runs.run([sys.executable, "-m", "bt_jax.evaluate", *flags])


def test_the_command_repeats_the_report_of_the_run(trained, tmp_path):
    ended = evaluate(f"--model={trained / 'run'}", f"--data={trained / 'data'}", f"--out={tmp_path / 'scores'}")
    assert ended.returncode == 0, ended.stderr
    ours = json.loads((tmp_path / "scores" / "metrics.json").read_text())
    theirs = runs.metrics(trained / "run", "testing")
    assert ours["confusion_matrix"] == theirs["confusion_matrix"]
    assert ours["split"] == "testing"
    assert ours["calibration"]["temperature"] == theirs["calibration"]["temperature"]
    assert ours["calibration"]["fitted_on"] == "the 20 validation images"
    assert "testing: There are only 16 images: too few" in ended.stdout
    assert "expected calibration error: " in ended.stdout
    tables = [list(csv.DictReader((folder / "predictions.csv").read_text().splitlines())) for folder in
              (tmp_path / "scores", trained / "run" / "report" / "testing")]  # fmt: skip
    assert [row["path"] for row in tables[0]] == [row["path"] for row in tables[1]]
    for row, other in zip(*tables, strict=True):
        np.testing.assert_allclose(float(row["glioma_tumor"]), float(other["glioma_tumor"]), rtol=1e-4)


def test_images_seen_in_training_are_leaked(trained, tmp_path):
    out = tmp_path / "scores"
    ended = evaluate(f"--model={trained / 'run'}", f"--data={trained / 'data'}", "--split=Training", f"--out={out}")
    assert ended.returncode == 0, ended.stderr
    result = json.loads((out / "metrics.json").read_text())
    assert result["subsets"]["leaked"]["n"] == result["n"] == 100
    assert result["subsets"]["clean"]["accuracy"] is None
    assert "training: No clean image is left: all 100 images have a near-duplicate" in ended.stdout
    groups = list(csv.DictReader((trained / "data" / "groups.csv").read_text().splitlines()))
    assert result["patients"]["n"] == len({row["group"] for row in groups})


@pytest.mark.slow
def test_class_folders_by_themselves_under_an_alias(trained, tmp_path):
    flat = tmp_path / "hospital"
    for folder, alias in (("glioma_tumor", "glioma"), ("no_tumor", "notumor")):
        (flat / alias).mkdir(parents=True)
        for file in sorted((trained / "data" / "Testing" / folder).iterdir())[:2]:
            (flat / alias / file.name).write_bytes(file.read_bytes())
    ended = evaluate(f"--model={trained / 'run'}", f"--data={flat}", f"--out={tmp_path / 'scores'}")
    assert ended.returncode == 0, ended.stderr
    result = json.loads((tmp_path / "scores" / "metrics.json").read_text())
    assert [result["per_class"][name]["support"] for name in result["per_class"]] == [2, 0, 2, 0]


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--model=O", "--data=D", "--out=O"], "holds no checkpoint"),
        (["--model=M", "--data=nowhere", "--out=O"], "--data is 'nowhere', which does not exist"),
    ],
)
def test_wrong_flags(trained, tmp_path, flags, said):
    places = {"D": trained / "data", "M": trained / "run", "O": tmp_path}
    given = [f"{name}={places.get(value, value)}" for name, _, value in (flag.partition("=") for flag in flags)]
    ended = evaluate(*given)
    assert ended.returncode == 2
    assert said in ended.stderr
    assert "Traceback" not in ended.stderr
    assert len(ended.stderr.strip().splitlines()) == 1


@pytest.mark.slow
def test_folds_are_an_ensemble(trained, tmp_path):
    """A workdir with folds predicts the mean of their probabilities at the temperature of all out-of-fold answers."""
    config = runs.small_config(
        data__source="folder", data__dir=str(trained / "data"), stages__count=1, data__folds=2, data__fold=-1
    )
    assert train.train_and_evaluate(config, tmp_path / "folds") == 0
    images = np.random.default_rng(0).integers(0, 256, (5, 32, 32)).astype(np.uint8)
    ensemble = loading.load(tmp_path / "folds")
    assert ensemble.temperature is not None and ensemble.temperature.images == 100
    logits = [loading.load(tmp_path / "folds" / f"fold_{fold}").predict_logits(images)[0] for fold in (0, 1)]
    members = [softmax(of_member, ensemble.temperature.value) for of_member in logits]
    together = ensemble.predict_probabilities(images)
    np.testing.assert_allclose(together, (members[0] + members[1]) / 2, atol=1e-7)
    assert not np.allclose(members[0], members[1], atol=1e-4)


@pytest.mark.slow
def test_an_exported_file_scores_as_the_run(trained, tmp_path):
    file = tmp_path / "model.safetensors"
    command = [sys.executable, "-m", "bt_jax.export", f"--model={trained / 'run'}", "--format=safetensors"]
    ended = runs.run([*command, f"--out={file}"])
    assert ended.returncode == 0, ended.stderr
    assert f"compared on 16 images of folder {trained / 'data'}:" in ended.stdout
    ended = evaluate(f"--model={file}", f"--data={trained / 'data'}", f"--out={tmp_path / 'scores'}")
    assert ended.returncode == 0, ended.stderr
    assert f"warning: {file} does not list its training images" in ended.stdout
    ours = json.loads((tmp_path / "scores" / "metrics.json").read_text())
    theirs = runs.metrics(trained / "run", "testing")
    assert ours["confusion_matrix"] == theirs["confusion_matrix"]
    assert ours["calibration"]["temperature"] == theirs["calibration"]["temperature"]


def test_no_run_there(tmp_path):
    with pytest.raises(UsageError, match="holds no checkpoint"):
        loading.load(tmp_path)
