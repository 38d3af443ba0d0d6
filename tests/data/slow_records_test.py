import pathlib
import subprocess
import sys

import pytest

from bt_jax.data import slow_records


def test_a_failure_is_passed_on_and_forgotten():
    with pytest.raises(KeyError), slow_records.track_loading("a"):
        raise KeyError
    assert slow_records.list_overdue() == []


_STALLED = """
import time
from bt_jax.data import slow_records
slow_records.SECONDS = 0.2
with slow_records.loading("Training/b.png, for step 3"):
    time.sleep(2)
"""


def test_a_record_that_takes_long_is_named_once_while_it_still_loads():
    root = pathlib.Path(slow_records.__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", _STALLED], cwd=root, capture_output=True, text=True, timeout=60, check=True
    )
    (line,) = done.stderr.splitlines()
    assert line.startswith("warning: Training/b.png, for step 3 has been loading for 0 s in process ")
