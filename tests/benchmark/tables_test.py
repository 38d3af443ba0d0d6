"""Results of the benchmark as text."""

import json

import pytest

from bt_jax.benchmark import tables
from bt_jax.common.errors import UsageError
from tests.benchmark.main_test import result

STEP = {"median": 0.5, "min": 0.25, "max": 1.0}
COSTS = {
    "repeats": 3, "compile_s": 12.34, "flops_per_image": 2e9, "bytes_per_image": 5e6, "step_s": STEP,
    "peak_memory_bytes": {"program": 2**20, "process": 3 * 10**9},
    "peers": {"timm": {"images_per_s": 10.05, "ratio": 0.8, "step_s": STEP, "peak_memory_bytes": 2_440_000_000}},
    "missing_peers": {"ONNX": "not installed"},
}  # fmt: skip


def test_a_result_for_the_terminal() -> None:
    lines = tables.format_result(result(**COSTS)).splitlines()
    assert lines[1] == ("train, configs/effnet.py: efficientnet_b1 at 240x240 pixels, batch 16, float32, median of 3")
    assert [line.split() for line in lines if line.startswith(("bt_jax", "timm"))] == [
        ["bt_jax", "8.0", "0.500", "0.250", "1.000", "3.0"],
        ["timm", "10.1", "0.500", "0.250", "1.000", "0.80", "2.4"],
    ]  # fmt: skip
    assert "compiled in 12.3 s" in lines
    assert "per image: 2 GFLOP, 5 MB accessed; achieved 30 GFLOP/s, 5 GB/s" in lines
    assert "memory: program 1 MiB, peak of the process 2861 MiB" in lines
    assert lines[-1] == "ONNX: not installed"


def test_the_memory_of_the_peers_is_in_the_markdown_table(tmp_path):
    (tmp_path / "train.json").write_text(json.dumps(result(**COSTS)))
    assert tables.format_markdown(tmp_path).splitlines()[2].split("|")[6].strip() == "**3.0**, 2.4 timm"


def test_a_damaged_file_in_the_folder_is_named(tmp_path):
    (tmp_path / "broken.json").write_text("{")
    with pytest.raises(UsageError, match=r"broken\.json is not JSON"):
        tables.format_markdown(tmp_path)
