"""The README: every command in it runs, and every file it points to is there."""

import pathlib
import re
import shlex
import sys
import zipfile

import pytest

from bt_jax.data.phantoms import phantom
from tests import runs

TEXT = (runs.ROOT / "README.md").read_text()
COMMANDS = [line for block in re.findall(r"```\n(.*?)```", TEXT, re.S) for line in block.splitlines()]
PYTHON_COMMANDS = [line for line in COMMANDS if line.startswith("python ")]


def test_links_lead_to_files():
    targets = re.findall(r"\]\(([^)#]+)\)", TEXT)
    assert targets
    for target in targets:
        assert (runs.ROOT / target).exists(), target


def test_every_command_is_known():
    """`launch.sh` is tested in launch_test, and its `multihost` in launch/multihost_test; the rest runs below."""
    others = [line.split("#")[0].strip() for line in COMMANDS if line not in PYTHON_COMMANDS]
    rehearsal = "./launch.sh multihost 2 --config=configs/cnn.py:demo --workdir=runs/two"
    assert others == ["./launch.sh demo", "./launch.sh test", rehearsal]
    assert len(PYTHON_COMMANDS) == 13


def test_configurations_in_the_table_exist():
    for name in re.findall(r"^\| `(configs/[^`]*)` \|", TEXT, re.M):
        path, _, variant = name.partition(":")
        assert (runs.ROOT / path).exists()
        assert not variant or f'variant == "{variant}"' in (runs.ROOT / path).read_text()


@pytest.mark.slow
def test_the_commands_run_in_their_order(tmp_path: pathlib.Path):
    """As they stand there, on a small zip of phantoms and with a tiny network; the second needs the first's model."""
    phantom.write_folder(tmp_path / "images", training_per_class=25, testing_per_class=4, seed=0)
    with zipfile.ZipFile(tmp_path / "archive.zip", "w") as archive:
        for file in sorted((tmp_path / "images").rglob("*")):
            if file.is_file():
                archive.write(file, file.relative_to(tmp_path / "images"))
    small = {name: value for name, value in runs.FIELDS.items() if name != "data.phantoms_per_class"}
    small |= {"stages.count": 1, "data.folds": 2}
    for line in PYTHON_COMMANDS:
        placed = re.sub(
            r"([ =])(archive\.zip|audit$|runs/|data/|scores|benchmarks)",
            lambda found: f"{found[1]}{tmp_path}/{found[2]}",
            line,
        )
        arguments = [sys.executable, *shlex.split(placed)[1:]]
        if "bt_jax.main" in line:
            arguments += [f"--config.{name}={value}" for name, value in small.items()]
        if "bt_jax.sweep" in line:
            arguments += [f"--config.{name}={small[name]}" for name in ("data.folds", "preprocess.size")]
            arguments += ["--config.stages.epochs=1", "--config.train.batch_size=8"]
        if "--mode=" in line:
            arguments += ["--config.model.name=efficientnet_nano", "--config.preprocess.size=32", "--repeats=1"]
        ended = runs.run(arguments)
        assert ended.returncode == 0, f"{line}\n{ended.stderr}"
    assert (tmp_path / "runs" / "first" / "report" / "model_card.md").exists()
    assert (tmp_path / "scores" / "metrics.json").exists()
    assert (tmp_path / "benchmarks" / "effnet_train.json").exists()
    assert (tmp_path / "runs" / "folds" / "cross_validation.json").exists()
    assert (tmp_path / "runs" / "study" / "comparison" / "curves.png").exists()
    assert "name=mlp" in (tmp_path / "runs" / "comparison" / "comparison.md").read_text()
    assert (tmp_path / "runs" / "effnet.svg").exists()
    assert len(list((tmp_path / "runs" / "maps").glob("*.png"))) == 116
    assert list((tmp_path / "data" / "prepared").rglob("*.array_record*"))
