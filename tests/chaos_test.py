"""A short form of `benchmarks/chaos.py`."""

import json
import sys

import pytest

from tests import runs


@pytest.mark.slow
def test_runs_that_are_killed_end_with_the_same_bits(tmp_path):
    found = tmp_path / "chaos.json"
    done = runs.run([sys.executable, "benchmarks/chaos.py", "--kills=2", "--ways=two", f"--json={found}"])
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads(found.read_text())
    assert result["faults"] == [] and result["kills"] == 2
    assert result["runs"] == result["runs_with_the_bits_of_the_uninterrupted_one"] > 0


def test_a_way_that_is_not_there():
    done = runs.run([sys.executable, "benchmarks/chaos.py", "--ways=three"])
    assert done.returncode == 2 and "there is no way three: use one, workers, two" in done.stderr
