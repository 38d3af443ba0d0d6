"""The command: what it says, what it makes, and training from it."""

import pathlib
import subprocess
import sys

import pytest

from tests import phantom_folder, runs


def prepare(*flags: str) -> subprocess.CompletedProcess[str]:
    return runs.run([sys.executable, "-m", "bt_jax.prepare", *flags])


def test_phantoms_are_prepared(tmp_path: pathlib.Path) -> None:
    ended = prepare("--data=phantoms", "--phantoms_per_class=4,1", f"--out={tmp_path / 'out'}")
    assert ended.returncode == 0, ended.stderr
    assert "20 images of 4 classes; 16 images by groups.csv" in ended.stdout
    assert ended.stdout.endswith(f"prepared: {tmp_path / 'out'}\n")
    assert "SYNTHETIC" not in ended.stderr and "Traceback" not in ended.stderr


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--out=o"], "--data is missing"),
        (["--data=phantoms"], "--out is missing"),
        (["--data=phantoms", "--out=o", "--phantoms_per_class=4"], "use two numbers, such as 80,20"),
        (["--data=nowhere", "--out=o"], "--data is 'nowhere', which does not exist"),
    ],
)
def test_a_mistake_is_one_clear_line(flags: list[str], message: str) -> None:
    ended = prepare(*flags)
    assert ended.returncode == 2
    assert ended.stderr.startswith("error: ") and message in ended.stderr and ended.stderr.count("\n") == 1


@pytest.mark.slow
def test_a_run_goes_on_from_what_was_prepared_of_its_folder(tmp_path: pathlib.Path) -> None:
    """Where the images lie cannot change a run: the report made from the one is that made from the other."""
    phantom_folder.write(tmp_path / "images", training_per_class=25, testing_per_class=4, seed=0)
    assert prepare(f"--data={tmp_path / 'images'}", f"--out={tmp_path / 'prepared'}").returncode == 0
    small = {"preprocess.size": 32, "stages.epochs": 1.0, "train.batch_size": 8, "data.source": "folder"}
    fields = [f"--config.{name}={value}" for name, value in small.items()]
    command = [sys.executable, "-m", "bt_jax.main", "--config=configs/mlp.py:demo", *fields]
    command.append(f"--workdir={tmp_path / 'run'}")
    names = ("split.csv", "report/validation/predictions.csv", "report/testing/predictions.csv", "seen_images.npz")
    contents = []
    for data in ("images", "prepared"):
        ended = runs.run([*command, f"--config.data.dir={tmp_path / data}"])
        assert ended.returncode == 0, ended.stderr
        contents.append({name: (tmp_path / "run" / name).read_bytes() for name in names})
    assert contents[0] == contents[1]
