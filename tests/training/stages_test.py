"""The plan of staged training: depths, rates, lengths, shared programs, and the table that is printed."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bt_jax.common.errors import UsageError
from bt_jax.training import stages
from bt_jax.training.stages import Plan, Schedule, Stage

B1 = ("stem", *(f"block_{i:02d}" for i in range(1, 24)), "top", "head")


def plan(names=B1, **changes) -> tuple[Stage, ...]:
    settings = {
        "count": 30,
        "head_epochs": 5.0,
        "epochs": 2.0,
        "head_learning_rate": 1e-3,
        "learning_rate": 3e-4,
        "final_learning_rate": 3e-5,
        "lowest_segment": "",
        "programs": 4,
        "steps_per_epoch": 10,
    }
    return stages.make_plan(names, **(settings | changes))


def whole(made, names=B1) -> Plan:
    schedule = Schedule(warmup=0.1, decay="cosine", final=0.3)
    return Plan(made, schedule, segment_names=names, batch_size=8, steps_per_epoch=10)


def test_thirty_stages_of_b1():
    made = plan()
    assert len(made) == 30
    assert B1[made[0].first_segment] == "head"
    assert B1[made[1].first_segment] == "top"
    assert B1[made[-1].first_segment] == "stem"
    # 25 segments below the head over 29 stages: 25 bring one segment more, 4 repeat the depth of the one before.
    steps_down = np.diff([stage.first_segment for stage in made])
    assert (steps_down == -1).sum() == 25
    assert (steps_down == 0).sum() == 4


def test_rates_fall_geometrically_from_the_second_stage_on():
    made = plan()
    rates = [stage.learning_rate for stage in made]
    assert rates[0] == 1e-3
    np.testing.assert_allclose([rates[1], rates[-1]], [3e-4, 3e-5])
    np.testing.assert_allclose(np.diff(np.log(rates[1:])), math.log(0.1) / 28)


def test_lengths_in_steps():
    made = plan(head_epochs=1.5, epochs=0.25)
    assert [stage.steps for stage in made] == [15] + [2] * 29
    assert [stage.first_step for stage in made[:3]] == [0, 15, 17]
    assert made[-1].last_step == 15 + 29 * 2


def test_without_a_stage_for_the_head_a_single_one_trains_all():
    (only,) = plan(count=1, head_epochs=0, learning_rate=1e-3)
    assert (only.first_segment, only.program_segment, only.steps) == (0, 0, 20)
    assert only.learning_rate == 1e-3


def test_without_a_stage_for_the_head_the_others_reach_down_evenly():
    made = plan(("a", "b", "c", "d", "head"), count=4, head_epochs=0, programs=2)
    assert [stage.first_segment for stage in made] == [3, 2, 1, 0]
    assert [stage.program_segment for stage in made] == [2, 2, 0, 0]
    np.testing.assert_allclose([made[0].learning_rate, made[-1].learning_rate], [3e-4, 3e-5])


def test_every_stage_has_a_step():
    assert all(stage.steps == 1 for stage in plan(head_epochs=0.001, epochs=0.001))


def test_stages_share_programs_that_reach_deep_enough():
    made = plan(programs=4)
    assert len({stage.program_segment for stage in made}) == 5  # the head's own, and four
    assert made[0].program_segment == len(B1) - 1
    assert all(stage.program_segment <= stage.first_segment for stage in made)


def test_a_program_for_each_depth():
    assert all(stage.program_segment == stage.first_segment for stage in plan(programs=0))


def test_one_program_is_that_of_the_head_too_unless_it_has_cached_features():
    head = len(B1) - 1
    assert [stage.program_segment for stage in plan(programs=1, cached_head=False)] == [0] * 30
    assert [stage.program_segment for stage in plan(programs=1)] == [head] + [0] * 29
    assert plan(programs=4, cached_head=False) == plan(programs=4)
    assert [stage.program_segment for stage in plan(count=1, programs=1, cached_head=False)] == [head]


def test_lowest_segment_bounds_the_unfreezing():
    made = plan(lowest_segment="block_10")
    assert B1[made[-1].first_segment] == "block_10"
    assert B1[made[1].first_segment] == "top"


def test_two_stages_are_the_two_phases():
    made = plan(("stem", "block_01", "top", "head"), count=2, programs=1)
    assert [stage.first_segment for stage in made] == [3, 0]
    assert [stage.learning_rate for stage in made] == [1e-3, 3e-4]


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"count": 0}, "config.stages.count"),
        ({"lowest_segment": "block_99"}, "config.stages.lowest_segment"),
        ({"epochs": 0}, "config.stages.epochs"),
        ({"head_epochs": -1.0}, "config.stages.head_epochs"),
        ({"final_learning_rate": 0.0}, "config.stages.final_learning_rate"),
        ({"programs": -1}, "config.stages.programs"),
    ],
)
def test_wrong_fields_are_named(changes, named):
    with pytest.raises(UsageError, match=named):
        plan(**changes)


@given(
    segments=st.integers(2, 60),
    count=st.integers(1, 80),
    programs=st.integers(0, 10),
    epochs=st.floats(0.01, 3),
)
def test_any_plan_is_sound(segments, count, programs, epochs):
    names = [f"s{i}" for i in range(segments)]
    made = plan(names, count=count, programs=programs, epochs=epochs)
    depths = [stage.first_segment for stage in made]
    assert depths[0] == segments - 1
    assert depths == sorted(depths, reverse=True)
    assert count == 1 or depths[-1] == 0
    assert all(0 <= stage.program_segment <= stage.first_segment for stage in made)
    assert len({stage.program_segment for stage in made[1:]}) <= (programs or segments)
    ends = [0, *(stage.last_step for stage in made)]
    assert [stage.first_step for stage in made] == ends[:-1]


def test_warmup_and_cosine():
    stage = Stage(number=2, first_segment=0, program_segment=0, learning_rate=1.0, steps=100, first_step=0)
    schedule = Schedule(warmup=0.1, decay="cosine", final=0.3)
    rates = [schedule.compute_rate(stage, i) for i in range(100)]
    np.testing.assert_allclose(rates[:10], np.arange(1, 11) / 11)
    assert rates[10] == 1.0
    np.testing.assert_allclose(rates[55], 0.3 + 0.7 * 0.5)  # half way down the cosine
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert 0.3 < rates[-1] < 0.301


def test_constant_rate():
    stage = Stage(number=2, first_segment=0, program_segment=0, learning_rate=0.5, steps=10, first_step=0)
    schedule = Schedule(warmup=0, decay="none", final=0)
    assert [schedule.compute_rate(stage, i) for i in range(10)] == [0.5] * 10
    with pytest.raises(UsageError, match=r"config\.schedule\.decay"):
        Schedule(warmup=0, decay="step", final=0)


def test_the_table_names_what_trains():
    params = {name: {"kernel": np.zeros(10)} for name in ("stem", "block_01", "top", "head")}
    names = tuple(params)
    made = plan(names, count=4)
    lines = whole(made, names).format_table(params).splitlines()
    assert lines[0].split() == ["stage", "trains", "parameters", "rate", "epochs", "steps", "program"]
    assert lines[1].split() == ["1", "head", "10", "1.0e-03", "5.00", "50", "1"]
    assert lines[4].split()[:5] == ["4", "stem", "..", "head", "40"]


def test_the_plan_in_words():
    words = whole(plan()).list_stages()
    assert len(words) == 30
    assert words[0] == "`head` and above, 5.00 epochs at a rate of 1.0e-03"
    assert words[-1] == "`stem` and above, 2.00 epochs at a rate of 3.0e-05"


def test_a_plan_knows_its_stages_and_programs():
    """A stage of the head alone, then three that share a program."""
    made = whole(plan(("a", "b", "c", "head"), count=4, programs=1))
    assert made.steps == 50 + 3 * 20
    assert made.get_stage(2).number == 2
    assert [made.is_last(stage) for stage in made.stages] == [False, False, False, True]
    assert [stage.program_segment for stage in made.stages] == [3, 0, 0, 0]
    assert made.find_next_program(made.get_stage(1)) is made.get_stage(2)
    assert made.find_next_program(made.get_stage(2)) is None
    assert made.compute_epoch(25) == 2.5
