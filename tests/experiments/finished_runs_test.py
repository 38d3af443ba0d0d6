import json
import shutil

import pytest

from bt_jax.common import files
from bt_jax.common.errors import UsageError
from bt_jax.experiments import finished_runs
from tests import synthetic_runs
from tests.synthetic_runs import write

RIGHT = (True, True, False, True)


def found(*directories):
    runs, left_out = finished_runs.find_runs(directories)
    return [run.folder for run in runs], left_out


def test_a_run_says_what_it_is(tmp_path):
    run = finished_runs.read_run(write(tmp_path / "run", right=RIGHT, seed=3, groups=["a", "a", "b", "c"], seconds=80))
    assert (run.seed, run.fold, run.synthetic, run.seconds) == (3, None, False, 80)
    assert run.scores["validation"]["accuracy"] == 0.75 and "testing" not in run.scores
    assert [row["val/loss"] for row in run.curves] == [1.0, 0.5]
    answers = run.read_predictions()
    assert [answer.right for answer in answers.values()] == list(RIGHT)
    assert answers["Training/no_tumor/1.png"] == ("pTraining/no_tumor/1.png", "no_tumor", "a", True)


def test_what_cannot_change_the_result_is_no_setting(tmp_path):
    first = write(tmp_path / "a", right=RIGHT, seed=0)
    second = write(tmp_path / "b", right=RIGHT, seed=1, data__dir="elsewhere", checkpoint__every_steps=7)
    assert finished_runs.read_run(first).config == finished_runs.read_run(second).config
    third = finished_runs.read_run(write(tmp_path / "c", right=RIGHT, model__hidden=[8]))
    assert third.config != finished_runs.read_run(first).config


def test_other_images_are_another_setting_but_other_phantoms_are_not(tmp_path):
    configs = [
        finished_runs.read_run(
            write(tmp_path / f"{pixels}{synthetic}", right=RIGHT, pixels=pixels, synthetic=synthetic)
        ).config
        for synthetic in (False, True)
        for pixels in ("p", "q")
    ]
    assert configs[0] != configs[1]
    assert configs[2] == configs[3] != configs[0]


def test_the_model_is_the_one_that_was_trained(tmp_path):
    folder = write(tmp_path / "run", right=RIGHT, model__name="efficientnet_b1")
    record = json.loads((folder / "run.json").read_text())
    record["model"]["name"] = "efficientnet_lite1"
    files.write_json(folder / "run.json", record)
    assert finished_runs.read_run(folder).config["model.name"] == "efficientnet_lite1"


def test_folds_are_one_setting(tmp_path):
    folds = [
        finished_runs.read_run(
            write(tmp_path / f"fold_{fold}", right=RIGHT, first_image=4 * fold, data__fold=fold, synthetic=True)
        )
        for fold in (0, 1)
    ]
    assert [run.fold for run in folds] == [0, 1]
    assert folds[0].config == folds[1].config


def test_runs_are_found_at_any_depth_in_natural_order(tmp_path):
    for seed in (10, 2):
        write(tmp_path / "study" / "hidden=64" / f"seed_{seed}", right=RIGHT, seed=seed)
    write(tmp_path / "study" / "a99" / "run", right=RIGHT, seed=8)
    write(tmp_path / "other", right=RIGHT, seed=7)
    folders, left_out = found(tmp_path / "other", tmp_path / "study", tmp_path / "other")
    assert [folder.name for folder in folders] == ["other", "run", "seed_2", "seed_10"]
    assert left_out == []


def test_unfinished_and_repeated_runs_are_named_and_left_out(tmp_path):
    write(tmp_path / "a", right=RIGHT)
    write(tmp_path / "b", right=RIGHT, finished=False, seed=1)
    write(tmp_path / "c", right=RIGHT)
    folders, left_out = found(tmp_path)
    assert [folder.name for folder in folders] == ["a"]
    assert left_out == [
        f"{tmp_path / 'b'} is not finished",
        f"{tmp_path / 'c'} repeats {tmp_path / 'a'}, with the same settings and seed",
    ]


def test_a_run_that_validated_nothing_is_left_out(tmp_path):
    write(tmp_path / "a", right=RIGHT)
    shutil.rmtree(tmp_path / "a" / "report" / "validation")
    assert found(tmp_path) == ([], [f"{tmp_path / 'a'} validated nothing: its config.data.folds is 0"])


def test_nothing_there(tmp_path):
    with pytest.raises(UsageError, match=r"nowhere does not exist"):
        found(tmp_path / "nowhere")
    with pytest.raises(UsageError, match=r"contains no run: there is no config\.json"):
        found(tmp_path)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("config.json", "{"),
        ("config.json", "{}"),
        ("run.json", "[]"),
        ("run.json", None),
        ("report/validation/metrics.json", None),
        ("report/validation/metrics.json", "{}"),
        ("metrics.jsonl", "nonsense\n"),
        ("split.csv", "a,b\n1,2\n"),
    ],
)
def test_broken_files_are_one_clear_line(tmp_path, name, content):
    folder = write(tmp_path / "run", right=RIGHT)
    (folder / name).unlink()
    if content is not None:
        (folder / name).write_text(content)
    with pytest.raises(UsageError, match=r"the files of the run in .*run cannot be read") as caught:
        found(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [None, "path,label\n1.png,a\n", "path,label,prediction\n1.png,a,a\n"])
def test_broken_predictions_are_one_clear_line(tmp_path, content):
    run = finished_runs.read_run(write(tmp_path / "run", right=RIGHT))
    path = run.folder / "report" / "validation" / "predictions.csv"
    path.unlink()
    if content is not None:
        path.write_text(content)
    with pytest.raises(UsageError, match=r"the files of the run in .*run cannot be read"):
        run.read_predictions()


def test_the_synthetic_runs_have_the_files_of_the_contract(tmp_path):
    """What `tests/train_test.py` demands of real runs, as far as a comparison reads it."""
    folder = write(tmp_path / "run", right=RIGHT)
    assert json.loads((folder / "config.json").read_text())["config"] == synthetic_runs.config()
    assert finished_runs.is_finished(folder)
