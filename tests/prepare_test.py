"""The command: what it says, what it makes, and training from it."""

import pathlib
import subprocess
import sys

import pytest

from bt_jax.data import phantom
from tests import runs


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
        (["--data=nowhere", "--out=o"], "--data is 'nowhere', which is not there"),
    ],
)
def test_a_mistake_is_one_clear_line(flags: list[str], message: str) -> None:
    ended = prepare(*flags)
    assert ended.returncode == 2
    assert ended.stderr.startswith("error: ") and message in ended.stderr and ended.stderr.count("\n") == 1


@pytest.mark.slow
def test_a_run_ends_with_the_same_bits_from_a_folder_and_prepared(tmp_path: pathlib.Path) -> None:
    """It is begun on the one and resumed on the other, too: where the images lie cannot change a run."""
    phantom.write_folder(tmp_path / "images", training_per_class=25, testing_per_class=4, seed=0)
    assert prepare(f"--data={tmp_path / 'images'}", f"--out={tmp_path / 'prepared'}").returncode == 0
    short = ["--config.stages.count=2", "--config.data.source=folder"]
    for name in ("images", "prepared"):
        ended = runs.run(runs.command(tmp_path / f"run_{name}", *short, f"--config.data.dir={tmp_path / name}"))
        assert ended.returncode == 0, ended.stderr
    runs.assert_same_result(tmp_path / "run_images", tmp_path / "run_prepared")
    again = runs.run(runs.command(tmp_path / "run_prepared", *short, f"--config.data.dir={tmp_path / 'images'}"))
    assert again.returncode == 0, again.stderr
