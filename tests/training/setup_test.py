"""What `prepare` makes of a configuration: a fresh run, and one that goes on."""

import shutil

import jax
import numpy as np
import pytest

from bt_jax.training.progress import Cadence, Progress
from bt_jax.training.setup import prepare
from bt_jax.workdir import run_folder
from tests import runs


@pytest.fixture(scope="module")
def fresh(tmp_path_factory):
    """A fresh run that is prepared, and what the folder holds then."""
    folder = tmp_path_factory.mktemp("setup") / "run"
    with run_folder.open_run(folder) as run:
        setup = prepare(runs.small_config(loss__label_smoothing=0.1), run)
        return setup, {path.name for path in folder.iterdir()}, run.checkpoints.latest_step


def test_a_fresh_run_begins_at_its_first_step(fresh):
    setup, names, latest = fresh
    assert setup.progress == Progress() and int(setup.state.step) == 0 and latest is None
    assert {"config.json", "split.csv", "seen_images.npz", "run.json"} <= names
    assert not names & {"report", "calibration.json", "doubt.npz", "metrics.jsonl"}


def test_fields_of_the_configuration_become_plain_values(fresh):
    setup, _, _ = fresh
    assert setup.cadence == Cadence(log_every=3, evaluate_every=7, checkpoint_every=8, patience=3)
    assert (setup.plan.batch_size, setup.plan.steps_per_epoch, setup.plan.steps) == (8, 10, runs.STEPS)
    assert len(setup.plan.stages) == 4
    assert setup.step.label_smoothing == 0.1 and setup.step.state_shardings is None
    assert setup.preprocessing.size == 32
    assert setup.facts["title"] == "cnn, fold 0 of 5"
    assert setup.facts["model"] == "cnn at 32x32 pixels"
    assert len(setup.facts["stages"]) == 4
    assert (len(setup.data.training), len(setup.data.validation), len(setup.data.testing)) == (80, 20, 16)


def test_a_stage_trains_on_images_of_the_size_that_the_network_has(fresh):
    setup, _, _ = fresh
    batch = setup.inputs.describe_batch(setup.plan.get_stage(1))
    assert {name: leaf.shape for name, leaf in batch.items()} == {
        "image": (8, 32, 32), "view": (8,), "record": (8,), "label": (8,), "weight": (8,),
    }  # fmt: skip
    logits, _ = setup.forward.compute(setup.state.get_evaluation_weights(), setup.data.validation.images)
    assert logits.shape == (20, 4)


def test_a_scale_makes_the_images_larger_than_those_of_training(tmp_path):
    with run_folder.open_run(tmp_path / "run") as run:
        setup = prepare(runs.config(preprocess__size=32, eval__scale=1.5), run)
    assert (setup.step.image_size, setup.preprocessing.size) == (32, 48)
    assert setup.description.preprocessing["size"] == 48
    assert setup.facts["model"].endswith(" at 48x48 pixels, trained at 32x32")
    assert setup.inputs.describe_batch(setup.plan.get_stage(4))["image"].shape == (8, 48, 48)
    assert setup.data.validation.images.shape == (10, 48, 48)


def test_a_run_with_a_checkpoint_goes_on_from_it(finished, fresh, tmp_path, capsys):
    folder = tmp_path / "run"
    shutil.copytree(finished, folder)
    with run_folder.open_run(folder) as run:
        setup = prepare(runs.small_config(), run)
    assert (setup.progress.step, setup.progress.stage, int(setup.state.step)) == (runs.STEPS, 4, runs.STEPS)
    assert f"resuming from step {runs.STEPS}, in stage 4" in capsys.readouterr().out
    assert setup.plan == fresh[0].plan and setup.description.class_names == fresh[0].description.class_names
    assert jax.tree.structure(setup.state) == jax.tree.structure(fresh[0].state)
    kernels = [setup.state.get_params()["head"]["output"]["kernel"] for setup in (setup, fresh[0])]
    assert np.abs(np.asarray(kernels[0]) - np.asarray(kernels[1])).max() > 1e-3
