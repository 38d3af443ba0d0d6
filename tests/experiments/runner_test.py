"""What a sweep does with its folder, with a training that only leaves the files of a run."""

import json
import pathlib

import pytest

from bt_jax.common.errors import UsageError
from bt_jax.experiments import runner
from tests import runs, synthetic_runs

GRID = {"model.hidden": [(8,), (16, 8)], "stages.epochs": [1.0, 2.0]}


class Training:
    """Stands for training: writes a run's files and remembers what it was asked for."""

    def __init__(self, *, fails=(), interrupted_at=None):
        self.trained: list[str] = []
        self.fails, self.interrupted_at = fails, interrupted_at

    def __call__(self, config, folder: pathlib.Path) -> int:
        self.trained.append("/".join(folder.parts[-2:]))
        if len(self.trained) == self.interrupted_at:
            return 143
        if config.model.hidden in self.fails:
            raise UsageError(f"the loss is nan in {folder}")
        right = [True] * (10 + len(config.model.hidden)) + [False] * 5
        synthetic_runs.write(folder, right=right, synthetic=True)
        content = {"schema": 1, "config": config.to_dict()}
        (folder / "config.json").write_text(json.dumps(content))
        return 0


def run(folder, training, *, values=GRID, seeds=2, base=None):
    said: list[str] = []
    status = runner.run_sweep(
        base or runs.config(), folder, values=values, seeds=seeds, train=training, say=said.append
    )
    return status, said


def states(folder):
    content = json.loads((folder / "sweep.json").read_text())
    return {one["folder"]: one["state"] for one in content["runs"]}


def test_every_combination_with_every_seed(tmp_path):
    training = Training()
    status, said = run(tmp_path, training)
    assert status == 0
    assert training.trained == [
        f"hidden={hidden}_epochs={epochs}/seed_{seed}"
        for hidden in ("8", "16-8")
        for epochs in (1, 2)
        for seed in (0, 1)
    ]
    assert set(states(tmp_path).values()) == {"finished"}
    assert "\nrun 3 of 8: hidden=8_epochs=2/seed_0" in said
    text = (tmp_path / "comparison" / "comparison.md").read_text()
    assert "| `hidden=16-8 epochs=2` | 2 | 2 |" in text
    content = json.loads((tmp_path / "sweep.json").read_text())
    assert content["grid"] == {"model.hidden": [[8], [16, 8]], "stages.epochs": [1.0, 2.0]}
    assert content["runs"][-1]["settings"] == {"model.hidden": [16, 8], "stages.epochs": 2.0}


def test_each_run_has_its_own_configuration(tmp_path):
    run(tmp_path, Training())
    config = json.loads((tmp_path / "hidden=16-8_epochs=2" / "seed_1" / "config.json").read_text())["config"]
    assert (config["seed"], config["model"]["hidden"], config["stages"]["epochs"]) == (1, [16, 8], 2.0)
    assert config["train"]["batch_size"] == 8


def test_without_a_grid_there_are_seeds(tmp_path):
    training = Training()
    run(tmp_path / "study", training, values={}, seeds=3, base=runs.config(seed=4))
    assert training.trained == ["study/seed_4", "study/seed_5", "study/seed_6"]


def test_an_interrupted_sweep_goes_on_with_that_run(tmp_path):
    first, second = Training(interrupted_at=3), Training()
    status, _ = run(tmp_path, first)
    assert status == 143
    assert list(states(tmp_path).values()) == ["finished"] * 2 + ["interrupted"] + ["waiting"] * 5
    assert not (tmp_path / "comparison").exists()
    status, said = run(tmp_path, second)
    assert status == 0
    assert second.trained[0] == first.trained[2] and len(second.trained) == 6
    assert "run 1 of 8: hidden=8_epochs=1/seed_0: finished before" in said


def test_one_that_was_killed_goes_on(tmp_path):
    class Killed(BaseException):
        pass

    def killed(config, folder):
        raise Killed

    with pytest.raises(Killed):
        run(tmp_path, killed)
    assert list(states(tmp_path).values())[:2] == ["running", "waiting"]
    training = Training()
    assert run(tmp_path, training)[0] == 0
    assert len(training.trained) == 8


def test_a_failed_run_is_named_and_the_others_go_on(tmp_path):
    status, said = run(tmp_path, Training(fails=[(8,)]))
    assert status == 1
    assert list(states(tmp_path).values()) == ["failed"] * 4 + ["finished"] * 4
    folder = "hidden=8_epochs=2/seed_1"
    assert said[-1] == f"failed: {folder}: the loss is nan in {tmp_path / folder}"
    assert "hidden=8 " not in (tmp_path / "comparison" / "comparison.md").read_text()
    again = Training()
    assert run(tmp_path, again)[0] == 0
    assert len(again.trained) == 4
    assert set(states(tmp_path).values()) == {"finished"}


def test_all_runs_failed(tmp_path):
    assert run(tmp_path, Training(fails=[(8,), (16, 8)]))[0] == 1
    assert not (tmp_path / "comparison").exists()


def test_other_values_and_seeds_add_runs(tmp_path):
    run(tmp_path, Training(), values={"model.hidden": [(8,)]}, seeds=1)
    training = Training()
    run(tmp_path, training, values={"model.hidden": [(16, 8), (8,)]}, seeds=2)
    assert training.trained == ["hidden=16-8/seed_0", "hidden=16-8/seed_1", "hidden=8/seed_1"]
    training = Training()
    run(tmp_path, training, values={"model.hidden": [(4,)]}, seeds=1)
    assert training.trained == ["hidden=4/seed_0"]
    text = (tmp_path / "comparison" / "comparison.md").read_text()
    assert all(f"| `hidden={hidden}` |" in text for hidden in ("8", "16-8", "4"))


def test_a_new_field_finds_the_runs_of_before(tmp_path):
    """A run is known by its whole configuration, not by its name."""
    base = runs.config()
    run(tmp_path, Training(), values={"model.hidden": [(8,)]}, seeds=1)
    training = Training()
    values = {"model.hidden": [(8,)], "stages.epochs": [base.stages.epochs, 3.0]}
    run(tmp_path, training, values=values, seeds=1)
    assert training.trained == ["hidden=8_epochs=3/seed_0"]


def test_values_that_look_alike_have_folders_of_their_own(tmp_path):
    training = Training()
    run(tmp_path, training, values={"model.weights": ["a/b", "a-b"]}, seeds=1)
    assert training.trained == ["weights=a-b/seed_0", "weights=a-b_(2)/seed_0"]


def test_another_base_is_refused_with_the_differences_listed(tmp_path):
    run(tmp_path, Training())
    training = Training()
    with pytest.raises(UsageError, match=r"config\.train\.batch_size was 8 and is 4\. Use another --workdir"):
        run(tmp_path, training, base=runs.config(train__batch_size=4))
    assert training.trained == []
    # What is in the grid, the seed, and what cannot change the result may differ.
    other = runs.config(model__hidden=(3,), stages__epochs=9.0, seed=0, data__threads=1, checkpoint__every_steps=9)
    assert run(tmp_path, training, base=other)[0] == 0
    assert training.trained == []


def test_the_given_configuration_stays_as_it_was(tmp_path):
    base = runs.config()
    before = str(base)
    run(tmp_path, Training(), base=base)
    assert str(base) == before
