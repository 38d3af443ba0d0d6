"""The command that trains, with each configuration's demo as a user has it: what it reaches, shows and ends with."""

import csv
import json
import pathlib
import shlex
import subprocess
import sys

import pytest

from bt_jax.workdir.metric_log import read_metrics
from tests import runs

# By demo: its network, its stages, and the accuracy on testing images that it reaches with any seed.
DEMOS = {
    "effnet": ("efficientnet_lite1", 5, 0.95),
    "cnn": ("cnn", 2, 0.9),
    "vgg16": ("vgg_nano", 2, 0.9),
    "mlp": ("mlp", 2, 0.6),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", DEMOS)
def test_a_demo_learns_in_stages_and_shows_it(tmp_path: pathlib.Path, name: str) -> None:
    model, stages, accuracy = DEMOS[name]
    done = runs.run([sys.executable, "-m", "bt_jax.main", f"--config=configs/{name}.py:demo", f"--workdir={tmp_path}"])
    assert done.returncode == 0, done.stderr
    assert f"model: {model}, " in done.stdout

    last = {row["stage"]: row["val/accuracy"] for row in read_metrics(tmp_path) if "val/accuracy" in row}
    assert list(last) == list(range(1, stages + 1))
    assert list(last.values()) == sorted(last.values()), "the accuracy falls from one stage to the next"
    assert runs.metrics(tmp_path, "testing")["accuracy"] >= accuracy

    card = (tmp_path / "report/model_card.md").read_text()
    assert "(heat_maps.png)" in card and (tmp_path / "report/heat_maps.png").stat().st_size > 10_000


@pytest.mark.slow
def test_the_commands_at_the_end_of_a_demo_can_be_copied(tmp_path: pathlib.Path) -> None:
    small = [f"--config.{field}={value}" for field, value in runs.FIELDS.items()]
    demo = ["--config=configs/mlp.py:demo", "--config.data.phantoms_per_class=(25,8)", "--config.stages.epochs=1"]
    done = runs.run([sys.executable, "-m", "bt_jax.main", *demo, f"--workdir={tmp_path}/demo"])
    assert done.returncode == 0, done.stderr
    _, _, ending = done.stdout.partition(f"Next, in {runs.ROOT}:")
    commands = [line for line in ending.splitlines() if shlex.split(line, comments=True)]
    predict, serve, train = (shlex.split(line) for line in commands)

    done = subprocess.run(predict, cwd=runs.ROOT, capture_output=True, text=True, check=True)
    classes = [json.loads(line)["path"].rsplit("/", 1)[1].split("_phantom")[0] for line in done.stdout.splitlines()]
    assert sorted(classes) == sorted(["glioma_tumor", "meningioma_tumor", "no_tumor", "pituitary_tumor"] * 2)
    with (tmp_path / "demo/heat_maps/index.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 8

    with subprocess.Popen([*serve, "--port=0"], cwd=runs.ROOT, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None and any("http://" in line for line in server.stdout)
        finally:
            server.terminate()

    done = runs.run([*train, *small, "--config.data.source=phantoms", f"--workdir={tmp_path}/first"])
    assert done.returncode == 0, done.stderr
