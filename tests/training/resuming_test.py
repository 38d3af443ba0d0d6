"""What must hold of a run however it is interrupted: it goes on to the bits of the one that was not."""

import csv
import json
import os
import pathlib
import random
import shutil
import signal
import subprocess
import time
from typing import Any

import pytest

from bt_jax.inference import jax_model
from bt_jax.training import train
from bt_jax.training.feature_cache import FeatureCache
from bt_jax.training.precompile import Programs
from bt_jax.workdir import checkpoint
from tests import runs, sharing


class _Killed(BaseException):
    """Stands for the sudden end of the process: nothing catches it, nothing is saved."""


def _killed_after(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets the training step fail after so many steps in this process."""
    done = 0
    get = Programs.get

    def failing(self, stage, **options):
        program = get(self, stage, **options)

        def one_step(*arguments):
            nonlocal done
            if done == step:
                raise _Killed
            done += 1
            return program(*arguments)

        return one_step

    monkeypatch.setattr(Programs, "get", failing)


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> pathlib.Path:
    """A run of `runs.small_config`, trained without interruption."""
    return sharing.make_once(tmp_path_factory, "trained", lambda folder: runs.fit(runs.small_config(), folder))


# Before the first checkpoint; at the edge of an epoch, which is the switch from stage 1 to 2 too; right after it;
# between a checkpoint and the next evaluation; in the last stage.
KILLS = (5, 10, 11, 27, 39)


@pytest.mark.parametrize("step", [pytest.param(step, marks=() if step == 10 else pytest.mark.slow) for step in KILLS])
def test_a_run_that_dies_goes_on_to_the_same_bits(trained, tmp_path, monkeypatch, step):
    with monkeypatch.context() as patch, pytest.raises(_Killed):
        _killed_after(step, patch)
        runs.fit(runs.small_config(), tmp_path / "run")
    assert runs.fit(runs.small_config(), tmp_path / "run") == 0
    runs.assert_same_training(trained, tmp_path / "run")


@pytest.mark.slow
@pytest.mark.parametrize("step", [10, 27])
def test_an_efficientnet_that_dies_goes_on_to_the_same_bits(finished_efficientnet, tmp_path, monkeypatch, step):
    """With BatchNorm, whose statistics are trained, and up to the report."""
    with monkeypatch.context() as patch, pytest.raises(_Killed):
        _killed_after(step, patch)
        train.train_and_evaluate(runs.config(), tmp_path / "run")
    assert train.train_and_evaluate(runs.config(), tmp_path / "run") == 0
    runs.assert_same_result(finished_efficientnet, tmp_path / "run")


@pytest.mark.slow
def test_a_run_whose_latest_checkpoint_is_damaged_goes_on_from_the_one_before(trained, tmp_path, monkeypatch, capsys):
    with monkeypatch.context() as patch, pytest.raises(_Killed):
        _killed_after(27, patch)
        runs.fit(runs.small_config(), tmp_path / "run")
    checkpoints = sorted((tmp_path / "run" / "checkpoints").iterdir(), key=lambda path: int(path.name))
    before, latest = (int(path.name) for path in checkpoints[-2:])
    data = max((checkpoints[-1] / "training").rglob("d/*"), key=lambda path: path.stat().st_size)
    data.write_bytes(data.read_bytes()[::-1])
    capsys.readouterr()
    assert runs.fit(runs.small_config(), tmp_path / "run") == 0
    output = capsys.readouterr().out
    assert f"warning: the checkpoint of step {latest} is damaged (training/" in output
    assert f"resuming from step {before}, " in output
    runs.assert_same_training(trained, tmp_path / "run")


@pytest.mark.slow
def test_a_run_whose_best_checkpoint_is_lost_chooses_anew(finished, tmp_path, capsys):
    shutil.copytree(finished, tmp_path / "run")
    best, _ = checkpoint.read_best_metadata(finished)
    latest = max(int(path.name) for path in (finished / "checkpoints").iterdir())
    assert best != latest, "the test needs another fixture"
    shutil.rmtree(tmp_path / "run" / "checkpoints" / str(best))
    assert train.train_and_evaluate(runs.small_config(), tmp_path / "run") == 0
    assert f"warning: the checkpoint of the best step, {best}, is lost" in capsys.readouterr().out
    assert json.loads((tmp_path / "run" / "calibration.json").read_text())["step"] == latest


# Every operation on, mixed images, sources that count alike, cached features, a probe.
ROBUST: dict[str, Any] = {
    "data__probe": "meningioma:patient=*-000[1-6]",
    "data__balance": "source",
    "train__mixup": 0.4,
    "train__cached_views": 2,
    "stages__count": 2,
    "stages__head_epochs": 2.0,
    "stages__lowest_segment": "dense_1",
    **{
        f"augment__{name}": strength
        for name, strength in {
            "crop": 0.2, "aspect": 0.2, "elastic": 0.02, "bias_field": 0.5, "sharpness": 1.0, "resolution": 0.5,
            "curve": 0.5, "cutout": 0.2,
        }.items()
    },
}  # fmt: skip


@pytest.mark.slow
def test_a_robust_run_scores_its_probe_and_resumes_to_the_same_bits(tmp_path, monkeypatch, capsys):
    assert train.train_and_evaluate(runs.small_config(**ROBUST), tmp_path / "whole") == 0
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
        train.train_and_evaluate(runs.small_config(**ROBUST), tmp_path / "run")
    assert train.train_and_evaluate(runs.small_config(**ROBUST), tmp_path / "run") == 0
    runs.assert_same_result(tmp_path / "whole", tmp_path / "run")


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
        assert runs.fit(runs.small_config(**CACHED), folder) == 0
    return folder, cache


@pytest.mark.slow
def test_features_train_as_the_images_do(finished_from_features, tmp_path):
    """The head's epochs on kept features are those through the whole network on the same views."""
    folder, _ = finished_from_features
    same_views = runs.small_config(**{**CACHED, "train__cached_views": 0, "data__views": 2, "stages__count": 1})
    assert runs.fit(same_views, tmp_path / "run") == 0
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
    assert runs.fit(runs.small_config(**CACHED), tmp_path / "run") == 0
    assert "features before head: 2 views of 80 images, 0.0 MB, found" in capsys.readouterr().out
    runs.assert_same_training(folder, tmp_path / "run")


@pytest.mark.slow
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
        runs.fit(runs.small_config(**CACHED), folder)
    with monkeypatch.context() as patch, pytest.raises(_Killed):
        _killed_after(13, patch)
        runs.fit(runs.small_config(**CACHED), folder)
    assert "1 of 2 files found, the others computed" in capsys.readouterr().out
    assert runs.fit(runs.small_config(**CACHED), folder) == 0
    runs.assert_same_training(finished_from_features[0], folder)


@pytest.mark.slow
def test_a_wish_to_stop_while_features_are_computed(finished_from_features, tmp_path, monkeypatch):
    monkeypatch.setenv("BT_CACHE", str(tmp_path / "cache"))
    folder, compute = tmp_path / "run", FeatureCache._compute

    def interrupted(self, *arguments):
        os.kill(os.getpid(), signal.SIGTERM)
        return compute(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(FeatureCache, "_compute", interrupted)
        assert runs.fit(runs.small_config(**CACHED), folder) == 128 + signal.SIGTERM
    assert runs.fit(runs.small_config(**CACHED), folder) == 0
    runs.assert_same_training(finished_from_features[0], folder)


@pytest.mark.slow
def test_a_run_that_trains_on_smaller_images_resumes_to_the_same_bits(tmp_path, monkeypatch):
    """After a death in the head's stage and in a later one. The model answers for the full size."""
    config = runs.config(preprocess__size=32, eval__scale=1.5)
    assert runs.fit(config, tmp_path / "whole") == 0
    for step in (12, 23):
        with monkeypatch.context() as patch, pytest.raises(_Killed):
            _killed_after(step, patch)
            runs.fit(config, tmp_path / "run")
    assert runs.fit(config, tmp_path / "run") == 0
    runs.assert_same_training(tmp_path / "whole", tmp_path / "run")
    assert jax_model.load(tmp_path / "run").preprocessing.size == 48


@pytest.mark.slow
def test_early_stopping_resumes_to_the_same_bits(tmp_path, monkeypatch):
    """With a patience of 1 stages end early and go back to the best weights, also after a death in between."""
    config = runs.small_config(early_stopping__patience=1, eval__every_epochs=0.3, stages__learning_rate=0.1)
    assert runs.fit(config, tmp_path / "whole") == 0
    steps = [row["step"] for row in runs.rows(tmp_path / "whole")]
    assert max(steps) < runs.STEPS, "no stage ended early"
    with monkeypatch.context() as patch, pytest.raises(_Killed):
        _killed_after(max(steps) - 2, patch)
        runs.fit(config, tmp_path / "run")
    assert runs.fit(config, tmp_path / "run") == 0
    runs.assert_same_training(tmp_path / "whole", tmp_path / "run")


def _wait_for_step(process: subprocess.Popen, workdir: pathlib.Path, step: int) -> None:
    """Returns when this process, not one before it, has logged the step, or has ended."""
    begun, log, deadline = time.time(), workdir / "metrics.jsonl", time.monotonic() + 240
    while process.poll() is None and time.monotonic() < deadline:
        if log.exists() and log.stat().st_mtime > begun and any(row["step"] >= step for row in runs.rows(workdir)):
            return
        time.sleep(0.01)


@pytest.mark.slow
def test_killed_three_times_at_random_moments(trained, tmp_path):
    """SIGKILL to the real command, anywhere: also while it starts, compiles, writes a checkpoint or the report."""
    seed = time.time_ns()
    print(f"random.Random({seed})")  # shown when the test fails
    generator = random.Random(seed)
    folder = tmp_path / "run"
    reached = 0
    for _ in range(3):
        process = subprocess.Popen(
            runs.small_command(folder), cwd=runs.ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        reached = generator.randrange(reached, runs.STEPS)
        _wait_for_step(process, folder, reached)
        time.sleep(generator.random())
        process.kill()
        process.wait()
    ended = runs.run(runs.small_command(folder))
    assert ended.returncode == 0, ended.stderr
    runs.assert_same_training(trained, folder)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_first(trained, tmp_path, number):
    folder = tmp_path / "run"
    process = subprocess.Popen(
        runs.small_command(folder, "--config.checkpoint.every_steps=0"),
        cwd=runs.ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    _wait_for_step(process, folder, 3)
    process.send_signal(number)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 128 + number
    assert "interrupted: saved at step" in output
    ended = runs.run(runs.small_command(folder))
    assert ended.returncode == 0, ended.stderr
    assert "resuming from step" in ended.stdout
    runs.assert_same_training(trained, folder)


@pytest.mark.slow
def test_a_finished_run_reports_again(finished, tmp_path, capsys):
    shutil.copytree(finished, tmp_path / "run")
    assert train.train_and_evaluate(runs.small_config(), tmp_path / "run") == 0
    assert "resuming from step" in capsys.readouterr().out
    runs.assert_same_result(finished, tmp_path / "run")
