"""The command that trains, with each configuration's demo, on fewer phantoms and for fewer epochs than a user has."""

import json
import subprocess
import sys

import pytest

from tests import runs

FIELDS = {"data.phantoms_per_class": (25, 4), "stages.epochs": 1.0, "preprocess.size": 32, "train.batch_size": 8}


@pytest.mark.slow
@pytest.mark.parametrize(("name", "model"), [("mlp", "mlp"), ("cnn", "cnn"), ("vgg16", "vgg_nano")])
def test_the_demo_of_a_family_trains_in_stages_to_a_report(tmp_path, name, model):
    settings = [f"--config.{field}={value}" for field, value in FIELDS.items()]
    command = [
        sys.executable,
        "-m",
        "bt_jax.main",
        f"--config=configs/{name}.py:demo",
        f"--workdir={tmp_path}",
        *settings,
    ]
    done = subprocess.run(command, cwd=runs.ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert f"model: {model}, " in done.stdout
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines() if line.strip()]
    assert {row["stage"] for row in rows} == {1, 2}
    assert (tmp_path / "report/model_card.md").exists()
    assert json.loads((tmp_path / "report/testing/metrics.json").read_text())["n"] == 16
