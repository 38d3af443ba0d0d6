import pathlib
import shutil
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bt_jax import checkpoint
from bt_jax.checkpoint import Checkpoints
from bt_jax.errors import UsageError


def trees(step: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """What to predict with, and the rest of the state, with the leaves that a run may lack."""
    evaluation = {
        "params": {"head": {"kernel": jnp.arange(6.0).reshape(2, 3) + step, "bias": None}},
        "batch_stats": {"mean": jnp.full(3, step, jnp.float32)},
    }
    training = {
        "step": jnp.int32(step),
        "moments": (jnp.ones(4, jnp.bfloat16) * step, None, ()),
        "average": None,
        "key": jnp.arange(2, dtype=jnp.uint32),
    }
    return evaluation, training


def save(checkpoints: Checkpoints, step: int, *, best: int | None, **progress: Any) -> None:
    evaluation, training = trees(step)
    checkpoints.save(
        step,
        evaluation=evaluation,
        training=training,
        metadata={"progress": {"step": step, "best_step": best, **progress}, "model": {"name": "cnn"}},
        best_step=best,
    )


def steps_on_disk(workdir: pathlib.Path) -> list[int]:
    return sorted(int(path.name) for path in (workdir / checkpoint.FOLDER).iterdir() if path.name.isdigit())


def assert_equal_trees(a: Any, b: Any) -> None:
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for left, right in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert left.dtype == right.dtype and left.shape == right.shape
        np.testing.assert_array_equal(np.asarray(left, np.float64), np.asarray(right, np.float64))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """The workdir of a run that stopped at step 40, with its best step 20."""
    workdir = tmp_path_factory.mktemp("run")
    checkpoints = Checkpoints(workdir)
    for step, best in ((10, 10), (20, 20), (30, 20), (40, 20)):
        save(checkpoints, step, best=best, unlogged=[{"loss": 0.5}])
    checkpoints.close()
    return workdir


@pytest.fixture
def copied(run, tmp_path) -> pathlib.Path:
    """A copy of it, to damage."""
    shutil.copytree(run, tmp_path / "copy")
    return tmp_path / "copy"


def test_round_trip(run):
    checkpoints = Checkpoints(run)
    assert checkpoints.latest_step == 40
    evaluation, training = trees(0)
    restored = checkpoints.restore(
        40, evaluation=checkpoint.abstract(evaluation), training=checkpoint.abstract(training)
    )
    for found, expected in zip(restored, trees(40), strict=True):
        assert_equal_trees(found, expected)
    metadata = checkpoints.metadata(40)
    checkpoints.close()
    assert metadata == {
        "progress": {"step": 40, "best_step": 20, "unlogged": [{"loss": 0.5}]},
        "model": {"name": "cnn"},
    }


def test_restored_arrays_have_the_sharding_that_was_asked_for(run):
    sharding = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    evaluation = checkpoint.restore_for_evaluation(run, 20, checkpoint.abstract(trees(0)[0], sharding))
    assert_equal_trees(evaluation, trees(20)[0])
    assert {leaf.sharding for leaf in jax.tree.leaves(evaluation)} == {sharding}


def test_only_the_latest_and_the_best_stay_on_disk(run):
    assert steps_on_disk(run) == [20, 40]


def test_without_a_best_only_the_latest_stays(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    assert checkpoints.latest_step is None
    for step in (0, 1):
        save(checkpoints, step, best=None)
        assert checkpoints.latest_step == step
    checkpoints.close()
    assert steps_on_disk(tmp_path) == [1]
    assert checkpoint.best_metadata(tmp_path)[0] == 1


def test_a_restarted_run_goes_on_keeping_latest_and_best(copied):
    checkpoints = Checkpoints(copied)
    save(checkpoints, 50, best=20)
    assert checkpoints.latest_step == 50
    assert steps_on_disk(copied) == [20, 50]
    save(checkpoints, 60, best=60)
    checkpoints.close()
    assert steps_on_disk(copied) == [60]


def test_a_step_that_is_there_stays(copied):
    checkpoints = Checkpoints(copied)
    save(checkpoints, 40, best=20, changed=True)
    assert "changed" not in checkpoints.metadata(40)["progress"]
    checkpoints.close()
    assert steps_on_disk(copied) == [20, 40]


def test_best_metadata(run):
    step, metadata = checkpoint.best_metadata(run)
    assert step == 20
    assert metadata["progress"]["step"] == 20 and metadata["model"] == {"name": "cnn"}


@pytest.mark.parametrize("name", ["missing", "empty", "begun"])
def test_best_metadata_of_a_folder_without_a_run(tmp_path, name):
    (tmp_path / "empty").mkdir()
    (tmp_path / "begun" / checkpoint.FOLDER).mkdir(parents=True)
    with pytest.raises(UsageError, match=rf"{name}' holds no checkpoint: give the workdir of a run"):
        checkpoint.best_metadata(tmp_path / name)


def test_a_half_written_checkpoint_is_ignored_and_cleared_away(copied):
    """A process that is killed while it saves leaves the folder under the name that it writes to."""
    folder = copied / checkpoint.FOLDER
    half = folder / "50.orbax-checkpoint-tmp"
    shutil.copytree(folder / "40", half)
    next(path for path in half.rglob("*") if path.is_file()).write_bytes(b"")
    assert checkpoint.best_metadata(copied)[0] == 20
    checkpoints = Checkpoints(copied)
    assert checkpoints.latest_step == 40
    save(checkpoints, 50, best=20)
    assert checkpoints.latest_step == 50
    checkpoints.close()
    assert sorted(path.name for path in folder.iterdir() if path.is_dir()) == ["20", "50"]
    evaluation = checkpoint.restore_for_evaluation(copied, 50, checkpoint.abstract(trees(0)[0]))
    assert_equal_trees(evaluation, trees(50)[0])
