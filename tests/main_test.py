"""The command that trains, with the demos of the configurations: what they reach, show and end with."""

import csv
import itertools
import json
import os
import pathlib
import shlex
import subprocess
import sys

import pytest

from bt_jax.data.class_labels import BRAIN_TUMOR_CLASSES
from bt_jax.workdir.metric_log import read_metrics
from tests import runs


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "stages", "rise", "accuracy"),
    [("effnet", 4, 0.1, 0.95), ("cnn", 2, 0.3, 0.85), ("vgg16", 2, 0.3, 0.75), ("mlp", 2, 0.1, 0.5)],
)
def test_a_demo_rises_from_stage_to_stage_and_classifies_its_testing_images(
    tmp_path: pathlib.Path, name: str, stages: int, rise: float, accuracy: float
) -> None:
    command = [sys.executable, "-m", "bt_jax.main", f"--config=configs/{name}.py:demo", f"--workdir={tmp_path}"]
    # Compiled as for users: it trains for minutes, and what it reaches is said of such programs.
    environment = {name: value for name, value in os.environ.items() if name != "JAX_DISABLE_MOST_OPTIMIZATIONS"}
    done = subprocess.run(command, cwd=runs.ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr

    last = {row["stage"]: row["val/accuracy"] for row in read_metrics(tmp_path) if "val/accuracy" in row}
    assert list(last) == list(range(1, stages + 1))
    of_stages = list(last.values())
    three_images = 3 / runs.metrics(tmp_path, "validation")["n"]
    assert all(after >= before - three_images for before, after in itertools.pairwise(of_stages)), last
    assert of_stages[-1] > of_stages[0] + rise, last
    assert runs.metrics(tmp_path, "testing")["accuracy"] >= accuracy

    assert "(heat_maps.png)" in (tmp_path / "report/model_card.md").read_text()
    assert (tmp_path / "report/heat_maps.png").stat().st_size > 10_000


@pytest.mark.slow
def test_the_commands_at_the_end_of_a_demo_can_be_copied(tmp_path: pathlib.Path) -> None:
    small = [f"--config.{field}={value}" for field, value in runs.FIELDS.items()]
    demo = ["--config=configs/mlp.py:demo", "--config.data.phantoms_per_class=(25,8)", "--config.stages.epochs=1"]
    done = runs.run([sys.executable, "-m", "bt_jax.main", *demo, f"--workdir={tmp_path}/demo"])
    assert done.returncode == 0, done.stderr
    _, _, ending = done.stdout.partition(f"Next, in {runs.ROOT}:")
    commands = [shlex.split(line, comments=True) for line in ending.splitlines()]
    predict, serve, train = (command for command in commands if command)

    done = subprocess.run(predict, cwd=runs.ROOT, capture_output=True, text=True, check=True)
    classes = [json.loads(line)["path"].rsplit("/", 1)[1].split("_phantom")[0] for line in done.stdout.splitlines()]
    assert sorted(classes) == sorted(BRAIN_TUMOR_CLASSES * 2)
    with (tmp_path / "demo/heat_maps/index.csv").open(newline="") as file:
        assert len(list(csv.DictReader(file))) == 8

    with subprocess.Popen([*serve, "--port=0"], cwd=runs.ROOT, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None and any("http://" in line for line in server.stdout)
        finally:
            server.terminate()

    done = runs.run([*train, *small, "--config.data.source=phantoms", f"--workdir={tmp_path}/first"])
    assert done.returncode == 0, done.stderr
