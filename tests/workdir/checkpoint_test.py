import os
import pathlib
import re
import shutil
import subprocess
import sys
import threading
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath

from bt_jax.common import waiting
from bt_jax.common.errors import UsageError
from bt_jax.workdir import checkpoint, checksums
from bt_jax.workdir.checkpoint import Checkpoints


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


def test_saves_leave_no_threads_behind(tmp_path):
    """Each would keep three files open: a long run has hundreds of saves."""
    checkpoints = Checkpoints(tmp_path)
    save(checkpoints, 1, best=1)
    assert checkpoints.latest_step == 1
    before = threading.active_count()
    for step in range(2, 6):
        save(checkpoints, step, best=1)
        assert checkpoints.latest_step == step
    assert threading.active_count() <= before
    checkpoints.close()


def test_round_trip(run):
    checkpoints = Checkpoints(run)
    assert checkpoints.latest_step == 40
    evaluation, training = trees(0)
    restored = checkpoints.restore(
        40, evaluation=checkpoint.make_abstract(evaluation), training=checkpoint.make_abstract(training)
    )
    for found, expected in zip(restored, trees(40), strict=True):
        assert_equal_trees(found, expected)
    metadata = checkpoints.read_metadata(40)
    checkpoints.close()
    assert metadata == {
        "progress": {"step": 40, "best_step": 20, "unlogged": [{"loss": 0.5}]},
        "model": {"name": "cnn"},
    }


def test_checking_and_restoring_for_long_say_so(run, monkeypatch, capsys):
    monkeypatch.setattr(waiting, "_FIRST", 0.0)
    monkeypatch.setattr(waiting, "_NEXT", 1e6)
    checkpoints = Checkpoints(run)
    evaluation, training = map(checkpoint.make_abstract, trees(0))
    checkpoints.restore(40, evaluation=evaluation, training=training)
    checkpoints.close()
    said = capsys.readouterr().out
    assert "comparing the checkpoints with their checksums: 0 s so far" in said
    assert "restoring the checkpoint of step 40: 0 s so far" in said


def test_restored_arrays_have_the_sharding_that_was_asked_for(run):
    sharding = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    evaluation = checkpoint.restore_for_evaluation(run, 20, checkpoint.make_abstract(trees(0)[0], sharding))
    assert_equal_trees(evaluation, trees(20)[0])
    assert {leaf.sharding for leaf in jax.tree.leaves(evaluation)} == {sharding}


def test_the_two_latest_and_the_best_stay_on_disk(run):
    assert steps_on_disk(run) == [20, 30, 40]


def test_without_a_best_the_two_latest_stay(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    assert checkpoints.latest_step is None
    for step in (0, 1, 2):
        save(checkpoints, step, best=None)
        assert checkpoints.latest_step == step
    checkpoints.close()
    assert steps_on_disk(tmp_path) == [1, 2]
    assert checkpoint.read_best_metadata(tmp_path)[0] == 2


def test_a_restarted_run_goes_on_keeping_latest_and_best(copied):
    checkpoints = Checkpoints(copied)
    save(checkpoints, 50, best=20)
    assert checkpoints.latest_step == 50
    assert steps_on_disk(copied) == [20, 40, 50]
    save(checkpoints, 60, best=60)
    checkpoints.close()
    assert steps_on_disk(copied) == [20, 50, 60]  # the best at either of the two latest


FILES = sorted(
    ("_CHECKPOINT_METADATA", "evaluation/_METADATA", "evaluation/manifest.ocdbt", "training/_sharding", checksums.FILE)
)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("how", ["changed", "cut", "missing"])
def test_a_checkpoint_damaged_in_any_file_is_set_aside_and_the_one_before_is_used(copied, name, how):
    path = copied / checkpoint.FOLDER / "40" / name
    content = path.read_bytes()
    if how == "missing":
        path.unlink()
    else:
        path.write_bytes(
            content[: len(content) // 2] + (b"" if how == "cut" else b"#" + content[len(content) // 2 + 1 :])
        )
    if (name, how) == (checksums.FILE, "missing"):  # as after a kill between a checkpoint and its checksums: read whole
        checkpoints = Checkpoints(copied)
        assert (checkpoints.latest_step, checkpoints.damaged) == (40, ())
        checkpoints.close()
        return
    warnings: list[str] = []
    checkpoints = Checkpoints(copied, warn=warnings.append)
    assert checkpoints.latest_step == 30 and checkpoints.damaged == (40,)
    aside = copied / checkpoint.DAMAGED / "40"
    (warning,) = warnings
    assert warning.startswith("warning: the checkpoint of step 40 is damaged (") and f"was moved to {aside}" in warning
    assert aside.is_dir()
    save(checkpoints, 40, best=20, again=True)  # its step can be saved anew
    assert checkpoints.latest_step == 40 and "again" in checkpoints.read_metadata(40)["progress"]
    checkpoints.close()
    assert steps_on_disk(copied) == [20, 30, 40]


# Orbax leaves a coroutine behind where a read fails.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_array_cut_short_is_noticed_without_checksums(copied):
    folder = copied / checkpoint.FOLDER / "40"
    (folder / checksums.FILE).unlink()
    for data in (path for path in folder.rglob("d/*") if path.is_file()):
        data.write_bytes(data.read_bytes()[:10])
    checkpoints = Checkpoints(copied, warn=lambda _: None)
    assert checkpoints.latest_step == 30
    checkpoints.close()


def test_predictions_pass_over_what_is_damaged_and_say_so(copied, capsys):
    folder = copied / checkpoint.FOLDER
    manifest = folder / "20" / "evaluation" / "manifest.ocdbt"
    manifest.write_bytes(manifest.read_bytes()[:-1])
    assert checkpoint.read_best_metadata(copied)[0] == 40  # the latest in the place of the best
    told = f"warning: the best checkpoint in {copied} is damaged or missing: using that of step 40\n"
    assert capsys.readouterr().err == told
    shutil.rmtree(folder / "20")
    (folder / "40" / "_CHECKPOINT_METADATA").write_text("{")
    assert checkpoint.read_best_metadata(copied)[0] == 30
    (folder / "30" / "_CHECKPOINT_METADATA").write_text("{")
    with pytest.raises(UsageError, match="are damaged: run the training again"):
        checkpoint.read_best_metadata(copied)


def test_a_checkpoint_is_sealed_while_training_goes_on(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    save(checkpoints, 10, best=None)
    deadline = time.monotonic() + 60
    while not checksums.is_sealed(epath.Path(tmp_path) / checkpoint.FOLDER / "10"):
        assert time.monotonic() < deadline
        checkpoints.seal_if_complete()
        time.sleep(0.01)
    checkpoints.close()


# A program of its own, whose files cannot grow beyond a limit: what a full disk is, without one.
_FULL = """
import resource, sys
import jax.numpy as jnp
from bt_jax.workdir.checkpoint import Checkpoints
from bt_jax.common.errors import UsageError

checkpoints = Checkpoints(sys.argv[1])
def save(step, values):
    array = jnp.arange(values, dtype=jnp.float32) * 1.1 % 0.7
    checkpoints.save(step, evaluation={"x": array}, training={"step": jnp.int32(step)},
                     metadata={"progress": {"step": step, "best_step": step}}, best_step=step)
save(10, 1000)
assert checkpoints.latest_step == 10
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    save(20, 1_000_000)
    checkpoints.latest_step
except UsageError as error:
    print(error)
checkpoints.close()
"""


def test_a_full_disk_is_one_line_and_the_last_checkpoint_is_intact(tmp_path):
    root = pathlib.Path(checkpoint.__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", _FULL, str(tmp_path)], cwd=root, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    (line,) = done.stdout.splitlines()
    assert re.match(r"the checkpoint of step 20 cannot be written to .* \(File too large\); the last good one", line)
    assert "is of step 10" in line
    checkpoints = Checkpoints(tmp_path)
    assert checkpoints.latest_step == 10 and checkpoints.damaged == ()
    checkpoints.close()


def test_a_step_that_is_there_stays(copied):
    checkpoints = Checkpoints(copied)
    save(checkpoints, 40, best=20, changed=True)
    assert "changed" not in checkpoints.read_metadata(40)["progress"]
    checkpoints.close()
    assert steps_on_disk(copied) == [20, 30, 40]


def test_best_metadata(run):
    step, metadata = checkpoint.read_best_metadata(run)
    assert step == 20
    assert metadata["progress"]["step"] == 20 and metadata["model"] == {"name": "cnn"}


@pytest.mark.parametrize("name", ["missing", "empty", "begun"])
def test_best_metadata_of_a_folder_without_a_run(tmp_path, name):
    (tmp_path / "empty").mkdir()
    (tmp_path / "begun" / checkpoint.FOLDER).mkdir(parents=True)
    with pytest.raises(UsageError, match=rf"{name}' holds no checkpoint: give the workdir of a run"):
        checkpoint.read_best_metadata(tmp_path / name)


def test_a_folder_whose_name_is_not_utf8_is_one_line(tmp_path):
    folder = tmp_path / os.fsdecode(b"a\xf1o")
    for open_folder in (checkpoint.Checkpoints, checkpoint.read_best_metadata):
        with pytest.raises(UsageError, match="is not UTF-8"):
            open_folder(folder)


def test_a_half_written_checkpoint_is_ignored_and_cleared_away(copied):
    """A process that is killed while it saves leaves the folder under the name that it writes to."""
    folder = copied / checkpoint.FOLDER
    half = folder / "50.orbax-checkpoint-tmp"
    shutil.copytree(folder / "40", half)
    next(path for path in half.rglob("*") if path.is_file()).write_bytes(b"")
    assert checkpoint.read_best_metadata(copied)[0] == 20
    checkpoints = Checkpoints(copied)
    assert checkpoints.latest_step == 40
    save(checkpoints, 50, best=20)
    assert checkpoints.latest_step == 50
    checkpoints.close()
    assert sorted(path.name for path in folder.iterdir() if path.is_dir()) == ["20", "40", "50"]
    evaluation = checkpoint.restore_for_evaluation(copied, 50, checkpoint.make_abstract(trees(0)[0]))
    assert_equal_trees(evaluation, trees(50)[0])
