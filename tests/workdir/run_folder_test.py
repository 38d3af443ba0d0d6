import copy
import json
import subprocess
import time

import hypothesis
import pytest
from hypothesis import strategies as st

from bt_jax.common import files
from bt_jax.common.errors import UsageError
from bt_jax.data import split_table
from bt_jax.workdir import run_folder

CONFIG = {
    "seed": 0,
    "profile": "",
    "model": {"name": "cnn", "hidden": (256, 128)},
    "data": {"fold": 0, "dir": "a.zip", "source": "auto", "workers": 0, "threads": 2, "memory_gb": 4.0},
    "checkpoint": {"every_steps": 100},
    "eval": {"batch_size": 32},
    "train": {"batch_size": 32, "slow_step": 30.0},
    "mesh": {"sharded": "", "sharded_from": 16384},
}
ROWS = [["Training/a/1.png", "a", "p", 0, "training", "f1"], ["Testing/a/2.png", "a", "", "", "testing", "f2"]]


def changed(**fields):
    """The configuration with other values, `model__name` for `model.name`."""
    config = copy.deepcopy(CONFIG)
    for name, value in fields.items():
        *parents, last = name.split("__")
        node = config
        for parent in parents:
            node = node[parent]
        node[last] = value
    return config


def written(folder):
    return json.loads((folder / "config.json").read_text())


def test_flatten():
    assert run_folder.flatten(CONFIG)["model.hidden"] == [256, 128]
    assert run_folder.flatten({"a": {"b": {"c": 1}, "d": None}, "e": {}}) == {"a.b.c": 1, "a.d": None}


@hypothesis.settings(deadline=None)
@hypothesis.given(
    config=st.recursive(
        st.integers() | st.text() | st.booleans() | st.tuples(st.integers(), st.integers()),
        lambda inner: st.dictionaries(st.sampled_from("abcde"), inner),
    ).filter(lambda value: isinstance(value, dict))
)
def test_a_configuration_equals_itself_after_a_trip_through_json(config):
    assert run_folder.flatten(json.loads(json.dumps(config))) == run_folder.flatten(config)


def test_config_is_written_with_its_schema(tmp_path):
    run_folder.write_config(tmp_path, CONFIG, resuming=False)
    assert written(tmp_path) == {"schema": run_folder.SCHEMA, "config": json.loads(json.dumps(CONFIG))}


def test_the_same_configuration_resumes(tmp_path):
    for _ in range(3):
        run_folder.write_config(tmp_path, CONFIG, resuming=True)


def test_a_changed_configuration_is_refused_with_the_differences_listed(tmp_path):
    run_folder.write_config(tmp_path, CONFIG, resuming=False)
    before = (tmp_path / "config.json").read_bytes()
    other = changed(seed=1, model__hidden=(256,), train__new_field="x", data__threads=8)
    with pytest.raises(UsageError) as caught:
        run_folder.write_config(tmp_path, other, resuming=True)
    message = str(caught.value)
    assert "\n" not in message and str(tmp_path) in message
    assert (
        "config.model.hidden was [256, 128] and is [256]; config.seed was 0 and is 1; "
        "config.train.new_field was None and is 'x'." in message
    )
    assert "threads" not in message
    assert (tmp_path / "config.json").read_bytes() == before


def test_a_field_that_is_gone_is_a_difference(tmp_path):
    run_folder.write_config(tmp_path, changed(train__old_field=3), resuming=False)
    with pytest.raises(UsageError, match=r"config\.train\.old_field was 3 and is None"):
        run_folder.write_config(tmp_path, CONFIG, resuming=True)


@pytest.mark.parametrize("off", [0, 0.0, False, "", (), None])
def test_a_field_that_is_gone_and_was_off_is_none(tmp_path, off):
    run_folder.write_config(tmp_path, changed(train__old_field=off), resuming=False)
    run_folder.write_config(tmp_path, CONFIG, resuming=True)
    assert written(tmp_path)["config"] == json.loads(json.dumps(CONFIG))


def test_a_field_at_its_default_may_be_new_or_gone(tmp_path):
    defaults = {"train": {"new_field": 0, "old_field": (3, 4)}}
    run_folder.write_config(tmp_path, changed(train__old_field=(3, 4)), resuming=False)
    run_folder.write_config(tmp_path, changed(train__new_field=0), defaults=defaults, resuming=True)
    assert written(tmp_path)["config"]["train"] == {**CONFIG["train"], "new_field": 0}
    with pytest.raises(UsageError, match=r": config\.train\.new_field was 0 and is 1\. "):
        run_folder.write_config(tmp_path, changed(train__new_field=1), defaults=defaults, resuming=True)


def test_fields_that_cannot_change_the_result_may_differ(tmp_path):
    run_folder.write_config(tmp_path, CONFIG, resuming=False)
    other = changed(
        checkpoint__every_steps=7, data__workers=3, data__threads=1, data__dir="b", data__source="folder",
        data__memory_gb=1.0, profile="1:2", mesh__sharded=".", mesh__sharded_from=8, train__slow_step=5.0,
    )  # fmt: skip
    run_folder.write_config(tmp_path, other, resuming=True)
    assert written(tmp_path)["config"]["data"]["dir"] == "b"
    assert set(run_folder.FREE_FIELDS) == {
        name for name, value in run_folder.flatten(other).items() if value != run_folder.flatten(CONFIG)[name]
    }


def test_only_a_run_that_is_resumed_is_bound(tmp_path):
    run_folder.write_config(tmp_path, CONFIG, resuming=False)
    run_folder.write_config(tmp_path, changed(seed=5), resuming=False)
    assert written(tmp_path)["config"]["seed"] == 5


def table(rows):
    """The content of a `split.csv`."""
    return files.format_csv(split_table.FIELDS, rows).encode()


def test_split_table(tmp_path):
    run_folder.write_split(tmp_path, table(ROWS), resuming=False)
    assert (tmp_path / "split.csv").read_bytes() == table(ROWS)
    run_folder.write_split(tmp_path, table(ROWS), resuming=True)


@pytest.mark.parametrize(
    "rows",
    [ROWS[:1], [*ROWS, ["Testing/a/3.png", "a", "", "", "testing", "f3"]], [[*ROWS[0][:5], "f9"], ROWS[1]], ROWS[::-1]],
    ids=["fewer", "more", "other pixels", "other order"],
)
def test_changed_images_are_refused_when_resuming(tmp_path, rows):
    run_folder.write_split(tmp_path, table(ROWS), resuming=False)
    before = (tmp_path / "split.csv").read_bytes()
    with pytest.raises(UsageError, match=r"the images differ from the list in .*split\.csv"):
        run_folder.write_split(tmp_path, table(rows), resuming=True)
    assert (tmp_path / "split.csv").read_bytes() == before
    run_folder.write_split(tmp_path, table(rows), resuming=False)
    assert (tmp_path / "split.csv").read_bytes() != before


def test_run_record_adds_up_over_restarts(tmp_path):
    record = run_folder.RunRecord.open(tmp_path)
    record.record_start(step=0, data={"source": "phantoms"})
    record.add_seconds("data", 2.0)
    record.add_stage_seconds(1, 10.0)
    record.save()
    again = run_folder.RunRecord.open(tmp_path)
    again.record_start(step=40, weights="none")
    again.add_seconds("data", 0.5)
    again.add_seconds("compile", 100.0)
    again.add_stage_seconds(1, 1.25)
    again.add_stage_seconds(2, 4.0)
    again.save()
    content = json.loads((tmp_path / "run.json").read_text())
    assert [start["step"] for start in content["starts"]] == [0, 40]
    assert content["seconds"] == {"data": 2.5, "compile": 100.0}
    assert content["seconds_by_stage"] == {"1": 11.25, "2": 4.0}
    assert content["data"] == {"source": "phantoms"} and content["weights"] == "none"
    assert again.get_total_seconds() == 2.5 + 11.25 + 4.0


def test_run_record_names_what_decides_the_result(tmp_path):
    record = run_folder.RunRecord.open(tmp_path)
    assert record.content["schema"] == run_folder.SCHEMA
    assert {"python", "jax", "jaxlib", "flax", "numpy", "pillow"} <= record.content["versions"].keys()
    assert record.content["devices"] and record.content["platform"]
    assert not (tmp_path / "run.json").exists()


def test_timed_adds_what_the_block_takes_even_if_it_fails(tmp_path):
    record = run_folder.RunRecord.open(tmp_path)
    with record.time_phase("sleep"):
        time.sleep(0.02)
    first = record.content["seconds"]["sleep"]
    with pytest.raises(KeyError), record.time_phase("sleep"):
        time.sleep(0.02)
        raise KeyError
    assert first >= 0.02 and record.content["seconds"]["sleep"] >= first + 0.02


def test_commit_outside_of_git_is_none(tmp_path, monkeypatch):
    monkeypatch.setattr(run_folder, "__file__", str(tmp_path / "workdir.py"))
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert run_folder._describe_commit() is None
    monkeypatch.setenv("PATH", "")
    assert run_folder._describe_commit() is None


def test_commit_is_that_of_the_repository_which_holds_the_package(tmp_path, monkeypatch):
    package = tmp_path / ".venv"
    package.mkdir()
    (package / "run_folder.py").write_text("")
    monkeypatch.setattr(run_folder, "__file__", str(package / "run_folder.py"))
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b"]
    for command in (["init", "-q"], ["commit", "-q", "--allow-empty", "-m", "first"]):
        subprocess.run([*git, *command], check=True)
    assert run_folder._describe_commit() is None  # it is installed in a folder of another repository
    for command in (["add", ".venv"], ["commit", "-q", "-m", "second"]):
        subprocess.run([*git, *command], check=True)
    head = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout
    assert head.startswith(run_folder._describe_commit())


def test_files_of_a_run_never_hold_nan(tmp_path):
    record = run_folder.RunRecord.open(tmp_path)
    record.record_start(step=0, loss=float("nan"))
    content = json.loads((tmp_path / "run.json").read_text(), parse_constant=pytest.fail)
    assert content["loss"] is None and files.make_json_safe(content) == content


def test_an_open_run_is_locked_and_published_at_the_end(tmp_path):
    published = []
    with run_folder.open_run(tmp_path / "run", began=5.0, publish=lambda: published.append(1)) as run:
        assert (run.folder, run.began, run.checkpoints.latest_step) == (tmp_path / "run", 5.0, None)
        run.record.record_start(step=0)
        with pytest.raises(UsageError, match="another process is training"), run_folder.open_run(tmp_path / "run"):
            pass
        assert published == []
    assert published == [1]
    with run_folder.open_run(tmp_path / "run") as run:
        assert len(run.record.content["starts"]) == 1 and run.began > 0


def test_a_run_that_fails_is_not_published_and_not_locked(tmp_path):
    published = []
    with pytest.raises(OSError, match="full"), run_folder.open_run(tmp_path, publish=lambda: published.append(1)):
        raise OSError("the disk is full")
    assert published == []
    with run_folder.lock(tmp_path):
        pass
