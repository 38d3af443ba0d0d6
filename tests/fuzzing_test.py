"""The fuzzer itself, and a short run of it."""

import contextlib
import signal

import numpy as np
import pytest

from bt_jax.data.io import file_reader
from bt_jax.data.io.slices import Slice, UnreadableError
from tests import fuzzing, hostile_inputs, medical_files

SEEDS = ("grey.png", "grey.jpeg", "palette.gif", "deep.tif", "plain.dcm", "enhanced.dcm", "volume.nii")


def test_a_short_run_reaches_new_lines_and_breaks_no_rule():
    known = [hostile_inputs.intact()[name] for name in SEEDS]
    kept = list(fuzzing.fuzz(known, seconds=2))
    assert len(kept) > 3
    reached = [lines for _, lines, _ in kept]
    assert reached == sorted(set(reached))
    assert all(content not in known for _, _, content in kept)


@pytest.mark.slow
def test_a_longer_run_from_all_seeds():
    for tried, _, _ in fuzzing.fuzz(fuzzing.seeds(), seconds=10, seed=1):
        assert tried


def test_changed_inputs_differ_and_are_drawn_the_same_again():
    content = hostile_inputs.image()
    made = [[fuzzing.mutated(content, content, np.random.default_rng(seed)) for seed in range(50)] for _ in range(2)]
    assert made[0] == made[1]
    assert len(set(made[0])) > 40


@pytest.mark.parametrize(
    ("result", "said"),
    [
        (KeyError("tag"), "KeyError"),
        (UnreadableError(f"the name is {medical_files.SECRET}"), "said"),
        (UnreadableError("two\nlines of it"), "said"),
        (Slice(np.zeros((2, 2, 3), np.uint8)), "a slice of"),
        (Slice(np.zeros((2, 2), np.float32)), "float32"),
        (Slice(np.zeros((1000, 1000), np.uint8)), "beyond the limits"),
    ],
)
def test_rules(monkeypatch, tmp_path, result, said):
    """Whatever breaks one ends the run and is kept."""

    def broken(content, *, limits):
        if isinstance(result, Exception) and content != b"seed":
            raise result
        yield Slice(np.zeros((1, 1), np.uint8)) if content == b"seed" else result

    monkeypatch.setattr(file_reader, "read_slices", broken)
    with pytest.raises(fuzzing.BrokenRuleError, match=said):
        list(fuzzing.fuzz([b"seed"], seconds=60, folder=tmp_path))
    (kept,) = tmp_path.glob("broken-*")
    assert kept.read_bytes() != b"seed"


def test_an_input_without_end_is_broken(monkeypatch):
    """Also where all exceptions are answered on the way, as pydicom and Pillow do."""

    def endless(content, *, limits):
        while True:
            with contextlib.suppress(Exception):
                sum(content)
        yield

    monkeypatch.setattr(file_reader, "read_slices", endless)
    monkeypatch.setattr(fuzzing, "LONGEST", 0.2)
    with pytest.raises(fuzzing.BrokenRuleError, match=r"took over 0\.2 s"):
        fuzzing.check(b"content")
    assert signal.getitimer(signal.ITIMER_REAL) == (0, 0)
