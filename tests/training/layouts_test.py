"""A short form of `benchmarks/layouts.py`."""

import json
import sys

import pytest

from tests import runs


@pytest.mark.slow
def test_two_processes_train_an_efficientnet_as_one_does(tmp_path):
    """In float64, where rounding does not grow to what a fault would look like. For devices see sharding_test."""
    found = tmp_path / "layouts.json"
    small = ["--model=efficientnet_nano", "--size=32", "--steps=6", "--dtypes=float64", "--once"]
    layouts = ["--devices=", "--processes=2", f"--json={found}"]
    done = runs.run([sys.executable, "benchmarks/layouts.py", *small, *layouts])
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads(found.read_text())["float64"]
    assert len(result["2 processes"]["losses"]) == 6
    assert max(result["2 processes"]["differences"]) < 1e-6
    assert len(set(result["1 device"]["losses"])) == 6
