"""Every command starts as a process that has imported nothing, and explains itself."""

import sys

import pytest

from tests import runs

COMMANDS = (
    "main", "evaluate", "predict", "export", "release", "sweep", "compare", "prepare", "audit", "benchmark", "serve",
)  # fmt: skip


def test_all_commands_are_here() -> None:
    package = runs.ROOT / "bt_jax"
    modules = {path.stem for path in package.glob("*.py")} - {"__init__", "defaults"}
    assert modules | {path.parent.name for path in package.glob("*/__main__.py")} == set(COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_help_has_examples_and_flags(name: str) -> None:
    ended = runs.run([sys.executable, "-m", f"bt_jax.{name}", "--help"], fresh=True)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert f"\n    python -m bt_jax.{name} --" in ended.stdout
    assert "\nFlags:\n" in ended.stdout and "\n  --" in ended.stdout


@pytest.mark.parametrize("name", COMMANDS)
def test_a_wrong_flag_is_one_line(name: str) -> None:
    ended = runs.run([sys.executable, "-m", f"bt_jax.{name}", "--no_such_flag=1"], fresh=True)
    assert ended.returncode == 2 and ended.stdout == ""
    (line,) = ended.stderr.splitlines()
    assert line.startswith("error: ") and "no_such_flag" in line
