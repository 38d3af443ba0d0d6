"""What follows training: nothing before `finalise`, all of it after, and the same whenever it is called."""

import json
import shutil

import pytest

from bt_jax.inference import ood
from bt_jax.metrics import calibration
from bt_jax.training import finalise as module
from bt_jax.training.finalise import finalise
from bt_jax.training.loop import fit
from bt_jax.training.setup import prepare
from bt_jax.workdir import run_folder
from tests import runs

WRITTEN = ("calibration.json", "doubt.npz", "report")


@pytest.fixture
def folder(finished, tmp_path):
    """A run that was trained to the end and has no report."""
    copy = tmp_path / "run"
    shutil.copytree(finished, copy)
    for name in WRITTEN:
        (shutil.rmtree if name == "report" else type(copy).unlink)(copy / name)
    return copy


@pytest.mark.slow
def test_training_leaves_the_report_to_what_follows(folder, finished):
    with run_folder.open_run(folder) as run:
        setup = prepare(runs.small_config(), run)
        result = fit(setup, run)
        assert (result.status, result.progress.step) == (0, runs.STEPS)
        assert not [name for name in WRITTEN if (folder / name).exists()]
        finalise(setup, run, result)
    runs.assert_same_result(finished, folder)
    step = json.loads((folder / "calibration.json").read_text())["step"]
    assert step == result.progress.best_step
    assert calibration.read(folder, step=step) is not None and ood.read(folder, step=step) is not None


@pytest.mark.slow
def test_temperature_and_ood_model_stand_before_the_report_is_written(folder, monkeypatch):
    """A report describes; when it fails, the model is complete all the same."""

    def fail(*arguments, **facts):
        assert (folder / "calibration.json").exists() and (folder / "doubt.npz").exists()
        raise OSError("the disk is full")

    monkeypatch.setattr(module.run_report, "write", fail)
    with pytest.raises(OSError, match="the disk is full"), run_folder.open_run(folder) as run:
        setup = prepare(runs.small_config(), run)
        finalise(setup, run, fit(setup, run))
    assert not (folder / "report").exists()
