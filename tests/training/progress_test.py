import dataclasses
import json

import hypothesis
from hypothesis import strategies as st

from bt_jax.training.progress import Progress
from bt_jax.training.stages import Stage

losses = st.lists(st.floats(0, 10), min_size=1, max_size=20)


def stage(steps: int) -> Stage:
    return Stage(number=1, first_segment=0, program_segment=0, learning_rate=1e-3, steps=steps, first_step=0)


@hypothesis.settings(deadline=None)
@hypothesis.given(values=losses)
def test_the_best_is_the_first_of_the_lowest_losses(values):
    progress = Progress()
    for loss in values:
        progress.advance()
        progress.record_evaluation(loss)
    assert progress.best_loss == min(values)
    assert progress.best_step == values.index(min(values)) + 1
    assert progress.evaluations_without_gain == len(values) - progress.best_step


@hypothesis.settings(deadline=None)
@hypothesis.given(values=losses, unlogged=st.lists(st.dictionaries(st.text(), st.floats(allow_nan=False)), max_size=3))
def test_a_trip_through_json_changes_nothing(values, unlogged):
    progress = Progress(unlogged=unlogged)
    for loss in values:
        progress.advance()
        progress.record_evaluation(loss)
    progress.start_next_stage()
    assert Progress.from_dict(json.loads(json.dumps(dataclasses.asdict(progress)))) == progress
    assert Progress.from_dict(json.loads(json.dumps(dataclasses.asdict(Progress())))) == Progress()


def test_a_loss_that_is_no_number_is_the_best_only_while_there_is_no_other():
    progress = Progress(step=1)
    progress.record_evaluation(float("nan"))
    assert (progress.best_loss, progress.best_step) == (None, 1)
    progress.step = 2
    progress.record_evaluation(float("inf"))
    assert (progress.best_loss, progress.best_step) == (None, 2)
    progress.step = 3
    progress.record_evaluation(0.7)
    assert (progress.best_loss, progress.best_step, progress.evaluations_without_gain) == (0.7, 3, 0)
    progress.step = 4
    progress.record_evaluation(float("nan"))
    assert (progress.best_loss, progress.best_step, progress.evaluations_without_gain) == (0.7, 3, 1)


def test_patience():
    progress = Progress()
    progress.record_evaluation(1.0)
    for _ in range(2):
        progress.record_evaluation(1.0)
        assert not progress.is_patience_over(3)
    progress.record_evaluation(2.0)
    assert progress.is_patience_over(3) and not progress.is_patience_over(4)
    assert not progress.is_patience_over(0)
    assert progress.is_stage_over(stage(100), patience=3) and not progress.is_stage_over(stage(100), patience=0)
    progress.record_evaluation(0.5)
    assert not progress.is_patience_over(1)


def test_a_stage_ends_with_its_steps_and_the_next_one_begins_afresh():
    progress = Progress(evaluations_without_gain=2, best_loss=0.5, best_step=1)
    for step in range(3):
        assert not progress.is_stage_over(stage(3), patience=0), step
        progress.advance()
    assert progress.is_stage_over(stage(3), patience=0)
    progress.start_next_stage()
    assert progress == Progress(step=3, stage=2, step_in_stage=0, best_loss=0.5, best_step=1)


def test_the_list_of_one_is_not_that_of_another():
    one, other = Progress(), Progress()
    one.unlogged.append({"loss": 1.0})
    assert other.unlogged == []
