import pytest

from bt_jax.benchmark.roofline import CHIPS, COUNTS, compute_roofline, estimate_scaling


def test_the_slower_side_bounds_the_speed():
    chip = CHIPS["TPU v5 lite"]
    bound = compute_roofline(chip, flops=6.5e11, bytes_accessed=4.5e10, main_memory_bytes=2e10, images=128)
    assert bound["bound_by"] == "memory"
    assert bound["arithmetic_s"] == pytest.approx(0.0033, rel=1e-2)
    assert bound["bytes_accessed_s"] == pytest.approx(0.0549, rel=1e-2)
    assert bound["images_per_s_per_chip"] == pytest.approx(128 * 819e9 / 4.5e10)
    assert bound["images_per_s_per_chip_main_memory"] == pytest.approx(128 * 819e9 / 2e10)
    bound = compute_roofline(chip, flops=197e12, bytes_accessed=819e10, main_memory_bytes=819e8, images=50)
    assert bound["bound_by"] == "arithmetic"
    assert (bound["images_per_s_per_chip"], bound["images_per_s_per_chip_main_memory"]) == (5, 50)


def test_the_table_of_chips():
    # Peak of bfloat16 in TFLOP/s, GB/s, GB/s over the links, GiB: as published for v4, v5e, v5p and v6e.
    assert {
        chip.name: (chip.flops_per_s / 1e12, chip.bytes_per_s / 1e9, chip.interconnect / 1e9, chip.memory / 2**30)
        for chip in CHIPS.values()
    } == {
        "v4": (275, 1228, 300, 32),
        "v5e": (197, 819, 200, 16),
        "v5p": (459, 2765, 600, 95),
        "v6e": (918, 1640, 400, 32),
    }
    for chip in CHIPS.values():
        assert 0.95 < chip.usable / chip.memory < 1.01


def test_more_chips_pay_for_the_all_reduce_alone():
    chip = CHIPS["TPU v5 lite"]
    bound = compute_roofline(chip, flops=1e11, bytes_accessed=819e8, main_memory_bytes=819e7, images=100)
    rows = estimate_scaling(chip, bound=bound, reduced_bytes=1e8, images=100)
    assert [row["chips"] for row in rows] == list(COUNTS)
    assert rows[0]["all_reduce_s"] == 0 and rows[0]["efficiency"] == 1
    assert rows[0]["images_per_s"] == pytest.approx(10_000)  # 10 ms of main memory
    assert rows[0]["images_per_s_accessed"] == pytest.approx(1000)
    # Two chips send all of it once, more of them nearly twice, at 100 GB/s.
    assert rows[1]["all_reduce_s"] == pytest.approx(1.5e-3)
    assert rows[-1]["all_reduce_s"] == pytest.approx(2e-3, rel=0.01)
    assert rows[1]["images_per_s"] == pytest.approx(4 * 100 / 11.5e-3)
    assert rows[-1]["efficiency"] == pytest.approx(10 / 12, rel=0.01)
