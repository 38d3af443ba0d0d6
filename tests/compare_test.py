"""Runs side by side, as a person asks for it."""

import sys

import pytest

from tests import runs
from tests.synthetic_runs import write


def compare(*arguments):
    return runs.run([sys.executable, "-m", "bt_jax.compare", *map(str, arguments)])


@pytest.fixture
def two(tmp_path):
    write(tmp_path / "mlp", right=[True, False] * 20)
    write(tmp_path / "cnn", right=[True] * 40, model__name="cnn")
    return tmp_path


def test_directories_stand_before_and_after_flags(two):
    ended = compare(two / "mlp", f"--out={two / 'out'}", two / "cnn")
    assert ended.returncode == 0, ended.stderr
    assert "name=mlp  1 run   accuracy 0.500  macro-F1" in ended.stdout
    assert f"written: {two / 'out' / 'comparison.md'}" in ended.stdout
    assert "| `name=cnn` | 1 | 0 | 20 | 1.9e-06 |" in (two / "out" / "comparison.md").read_text()
    assert (two / "out" / "curves.png").stat().st_size > 10_000
    assert not [path for path in (two / "out").iterdir() if path.name.startswith(".")]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["mlp"], "--out is missing"),
        (["--out=out"], "no run is given"),
        (["nowhere", "--out=out"], "nowhere does not exist"),
        (["mlp", "--out=out", "--reference=x"], "--reference is 'x', which is not a row: use one of 'mlp'"),
        (["mlp", "--uot=out"], "Unknown command line flag 'uot'"),
    ],
)
def test_what_is_wrong_is_one_line(two, arguments, said):
    placed = [f"--out={two / 'out'}" if a == "--out=out" else a if a[0] == "-" else two / a for a in arguments]
    ended = compare(*placed)
    assert ended.returncode == 2
    assert said in ended.stderr
    assert len(ended.stderr.strip().splitlines()) == 1
    assert not (two / "out").exists()
