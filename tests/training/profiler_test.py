"""Traces of training steps: there, readable, and of the steps that were asked for."""

import pathlib
import sys

import jax
import jax.numpy as jnp
import pytest

from bt_jax.common.errors import UsageError
from bt_jax.training import config_check, profiler
from bt_jax.workdir import run_folder
from tests import runs

# The type is one of jaxlib, whose reader of traces aborts where this warning of Python 3.12 and newer is an error.
pytestmark = pytest.mark.filterwarnings("ignore:builtin type event_stats has no __module__:DeprecationWarning")


def steps_of(folder: pathlib.Path) -> list[int]:
    """The numbers of the traced steps, as XProf finds them."""
    found = []
    for path in (folder / profiler.FOLDER).rglob("*.xplane.pb"):
        for plane in jax.profiler.ProfileData.from_file(str(path)).planes:
            for line in plane.lines:
                found += [dict(event.stats)["step_num"] for event in line.events if event.name == "train"]
    return sorted(found)


def run_steps(tracer: profiler.Profiler, steps: range) -> None:
    x = jnp.zeros(8)
    for step in steps:
        with tracer.trace_step(step):
            x = jnp.sin(x)
        tracer.stop_if_over(x)


@pytest.mark.parametrize(("text", "span"), [("", None), ("0:1", (0, 1)), ("10:20", (10, 20))])
def test_spans(text: str, span: tuple[int, int] | None) -> None:
    assert profiler.parse(text) == span


@pytest.mark.parametrize("text", ["10", "20:10", "5:5", "-1:3", "a:b", "1:2:3", ":5", "5:"])
def test_anything_else_is_one_clear_line(text: str) -> None:
    with pytest.raises(UsageError, match=r"config\.profile is '.*': use START:STOP"):
        profiler.parse(text)


def test_steps_beyond_the_run_are_one_clear_line(tmp_path: pathlib.Path) -> None:
    with pytest.raises(UsageError, match="the run has 30 steps: stop at 30 or before"):
        profiler.Profiler("10:31", tmp_path, steps=30)


def test_the_steps_asked_for_are_traced(tmp_path: pathlib.Path) -> None:
    run_steps(profiler.Profiler("2:4", tmp_path, steps=9), range(9))
    assert steps_of(tmp_path) == [2, 3]


def test_a_run_resumed_among_them_traces_those_left(tmp_path: pathlib.Path) -> None:
    run_steps(profiler.Profiler("2:6", tmp_path, steps=9), range(4, 9))
    assert steps_of(tmp_path) == [4, 5]


def test_a_run_that_ends_among_them_keeps_its_trace(tmp_path: pathlib.Path) -> None:
    tracer = profiler.Profiler("2:6", tmp_path, steps=9)
    run_steps(tracer, range(4))
    assert steps_of(tmp_path) == []
    tracer.close()
    assert steps_of(tmp_path) == [2, 3]


def test_without_it_nothing_is_written(tmp_path: pathlib.Path) -> None:
    run_steps(profiler.Profiler("", tmp_path, steps=9), range(9))
    run_steps(profiler.Profiler("7:9", tmp_path, steps=9), range(3))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_run_traces_its_steps(tmp_path: pathlib.Path) -> None:
    small = {"data.phantoms_per_class": (25, 4), "preprocess.size": 32, "stages.epochs": 1.0, "train.batch_size": 8}
    fields = [f"--config.{name}={value}" for name, value in small.items()]
    command = [sys.executable, "-m", "bt_jax.main", "--config=configs/mlp.py:demo", *fields]
    command.append(f"--workdir={tmp_path / 'run'}")
    traced = runs.run([*command, "--config.profile=3:6"])
    assert traced.returncode == 0, traced.stderr
    assert steps_of(tmp_path / "run") == [3, 4, 5]


def test_it_may_be_given_when_a_run_is_resumed() -> None:
    assert "profile" in run_folder.FREE_FIELDS


def test_nonsense_is_refused_before_anything_is_loaded() -> None:
    with pytest.raises(UsageError, match=r"config\.profile is '20:10'"):
        config_check.check_config(runs.config(profile="20:10"))
