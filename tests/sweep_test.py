"""A grid of small runs, as a person starts it."""

import json
import re
import signal
import subprocess
import sys
import time

import pytest

from tests import runs

# Ten steps an epoch of a dense network on phantoms of 32x32 pixels.
FIELDS = {
    "data.phantoms_per_class": (25, 2),
    "preprocess.size": 32,
    "model.hidden": (8,),
    "stages.count": 1,
    "stages.head_epochs": 0.0,
    "stages.epochs": 2.0,
    "train.batch_size": 8,
    "train.log_every": 3,
    "eval.batch_size": 8,
}


def command(workdir, *flags: str) -> list[str]:
    """The command line of a sweep over small runs."""
    fields = [f"--config.{name}={value}" for name, value in FIELDS.items()]
    start = [sys.executable, "-m", "bt_jax.sweep", "--config=configs/mlp.py:demo", f"--workdir={workdir}"]
    return [*start, *fields, *flags]


def states(workdir) -> dict[str, str]:
    content = json.loads((workdir / "sweep.json").read_text())
    return {one["folder"]: one["state"] for one in content["runs"]}


@pytest.mark.slow
def test_a_sweep_trains_compares_and_is_done_only_once(tmp_path):
    workdir = tmp_path / "study"
    grid = ("--grid", "model.hidden=(8,),(4,2)", "--grid=stages.learning_rate=1e-3,1e-2")
    ended = runs.run(command(workdir, *grid))
    assert ended.returncode == 0, ended.stderr
    assert states(workdir) == {
        f"hidden={hidden}_learning_rate={rate}/seed_0": "finished"
        for hidden in ("8", "4-2")
        for rate in ("0.001", "0.01")
    }
    text = (workdir / "comparison" / "comparison.md").read_text()
    assert "| `hidden=4-2 learning_rate=0.01` | 1 | 1 |" in text
    assert re.search(r"\| `hidden=8 learning_rate=0.01` .* \| 8,236 \| 0\.0164 \|", text), text
    assert (workdir / "comparison" / "curves.png").exists()
    again = runs.run(command(workdir, *grid))
    assert again.returncode == 0, again.stderr
    assert again.stdout.count("finished before") == 4
    assert "parameters" not in again.stdout  # nothing was trained


@pytest.mark.slow
def test_a_diverging_run_does_not_end_the_sweep(tmp_path):
    """The rate that diverges is named at the end, and tried again by the next call."""
    flags = ("--grid=stages.learning_rate=1e38,1e-3", "--config.optimizer.clip_norm=0.0")
    for _ in range(2):
        ended = runs.run(command(tmp_path / "study", *flags))
        assert ended.returncode == 1
        assert states(tmp_path / "study") == {
            "learning_rate=1e+38/seed_0": "failed",
            "learning_rate=0.001/seed_0": "finished",
        }
        assert ended.stdout.splitlines()[-1].startswith("failed: learning_rate=1e+38/seed_0: the ")
        assert "Traceback" not in ended.stderr


@pytest.mark.slow
def test_a_signal_ends_the_sweep_and_the_next_goes_on(tmp_path):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    flags = (
        "--seeds=2",
        "--config.stages.epochs=300",
        "--config.eval.every_epochs=100",
        "--config.checkpoint.every_steps=0",
    )
    assert runs.run(command(whole, *flags)).returncode == 0
    process = subprocess.Popen(
        command(broken, *flags), cwd=runs.ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    log, deadline = broken / "seed_0" / "metrics.jsonl", time.monotonic() + 240
    while process.poll() is None and time.monotonic() < deadline and not (log.exists() and log.stat().st_size):
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 128 + signal.SIGTERM
    assert "interrupted: saved at step" in output
    assert states(broken) == {"seed_0": "interrupted", "seed_1": "waiting"}
    ended = runs.run(command(broken, *flags))
    assert ended.returncode == 0, ended.stderr
    assert "resuming from step" in ended.stdout
    for seed in ("seed_0", "seed_1"):
        assert runs.rows(broken / seed) == runs.rows(whole / seed)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--grid=model.hiden=(8,)"], "names 'model.hiden', which is not a field of the configuration: did you mean"),
        (["--grid=train.batch_size=8,many"], "--grid train.batch_size: 'many' is not a whole number, as in 8"),
        (["--grid=train.batch_size=8,0"], "config.train.batch_size is 0: use a whole number of 1 or more"),
        (["--grid=model.name=mlp,resnet"], "config.model.name is 'resnet': use one of"),
        (["--grid=model.dropout=0.1", "--grid=model.dropout=0.2"], "--grid names model.dropout twice"),
        (["--seeds=0"], "--seeds=0"),
    ],
)
def test_what_is_wrong_is_said_before_anything_runs(tmp_path, flags, said):
    ended = runs.run(command(tmp_path / "study", *flags))
    assert ended.returncode == 2
    assert said in ended.stderr
    assert len(ended.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "study").exists()


@pytest.mark.parametrize("missing", ["config", "workdir"])
def test_missing_flags(tmp_path, missing):
    flags = {"config": f"--workdir={tmp_path}", "workdir": "--config=configs/effnet.py:demo"}
    ended = runs.run([sys.executable, "-m", "bt_jax.sweep", flags[missing]])
    assert ended.returncode == 2 and f"--{missing} is missing" in ended.stderr
