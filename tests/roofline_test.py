import pytest

from bt_jax.roofline import CHIPS, roofline


def test_the_slower_side_bounds_the_speed():
    chip = CHIPS["TPU v5 lite"]
    bound = roofline(chip, flops=6.5e11, bytes_accessed=4.5e10, main_memory_bytes=2e10, images=128)
    assert bound["bound_by"] == "memory"
    assert bound["arithmetic_s"] == pytest.approx(0.0033, rel=1e-2)
    assert bound["bytes_accessed_s"] == pytest.approx(0.0549, rel=1e-2)
    assert bound["images_per_s_per_chip"] == pytest.approx(128 * 819e9 / 4.5e10)
    assert bound["images_per_s_per_chip_main_memory"] == pytest.approx(128 * 819e9 / 2e10)
    bound = roofline(chip, flops=197e12, bytes_accessed=819e10, main_memory_bytes=819e8, images=50)
    assert bound["bound_by"] == "arithmetic"
    assert (bound["images_per_s_per_chip"], bound["images_per_s_per_chip_main_memory"]) == (5, 50)


def test_the_table_of_chips():
    # Peak of bfloat16 in TFLOP/s, GB/s, GiB: as published for v4, v5e, v5p and v6e.
    assert {
        chip.name: (chip.flops_per_s / 1e12, chip.bytes_per_s / 1e9, chip.memory / 2**30) for chip in CHIPS.values()
    } == {
        "v4": (275, 1228, 32),
        "v5e": (197, 819, 16),
        "v5p": (459, 2765, 95),
        "v6e": (918, 1640, 32),
    }
    for chip in CHIPS.values():
        assert 0.95 < chip.usable / chip.memory < 1.01
