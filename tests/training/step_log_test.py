"""Metrics of steps: fetched late, averaged in rows, refused where they are not finite."""

import jax.numpy as jnp
import pytest

from bt_jax.common.errors import UsageError
from bt_jax.training.progress import Progress
from bt_jax.training.stages import Plan, Schedule, Stage
from bt_jax.training.step_log import StepLog

STAGE = Stage(number=1, first_segment=0, program_segment=0, learning_rate=0.1, steps=8, first_step=0)
PLAN = Plan((STAGE,), Schedule(0.0, "none", 1.0), segment_names=("head",), batch_size=4, steps_per_epoch=4)


class Rows:
    def __init__(self):
        self.rows, self.closed = [], False

    def write(self, **row):
        self.rows.append(row)

    def sync(self):
        self.rows.append("sync")

    def close(self):
        self.closed = True


@pytest.fixture
def made():
    rows, progress = Rows(), Progress()
    log = StepLog(rows, PLAN, progress)
    yield log, rows, progress
    log.close()
    assert rows.closed


def add(log, progress, loss, rate=0.1):
    log.add({"loss": jnp.float32(loss), "gradient_norm": jnp.float32(1)}, learning_rate=rate)
    progress.advance()


def test_a_row_has_the_means_since_the_last_one(made):
    log, rows, progress = made
    for loss, rate in ((3.0, 0.5), (1.0, 0.25)):
        add(log, progress, loss, rate)
    assert progress.unlogged == [], "still on the devices"
    log.fetch(STAGE)
    assert [row["loss"] for row in progress.unlogged] == [3.0, 1.0]
    log.write_means(STAGE)
    assert progress.unlogged == []
    (row,) = rows.rows
    assert row.pop("train/images_per_s") > 0
    assert row == {
        "step": 2, "epoch": 0.5, "stage": 1, "train/loss": 2.0, "train/gradient_norm": 1.0, "train/learning_rate": 0.25
    }  # fmt: skip
    add(log, progress, 5.0)
    log.fetch(STAGE)
    log.write_means(STAGE)
    assert (rows.rows[1]["step"], rows.rows[1]["train/loss"]) == (3, 5.0)


def test_other_values_have_a_row_of_their_own(made):
    log, rows, progress = made
    progress.step = 6
    log.write(STAGE, {"val/loss": 0.5})
    log.sync()
    assert rows.rows == [{"step": 6, "epoch": 1.5, "stage": 1, "val/loss": 0.5}, "sync"]


@pytest.mark.parametrize("value", ["nan", "inf"])
def test_the_step_that_went_wrong_is_named(made, value):
    log, _, progress = made
    for loss in (1.0, float(value), 1.0):
        add(log, progress, loss)
    with pytest.raises(UsageError, match=rf"the loss is {value} at step 2, in stage 1 at learning rate 0\.1"):
        log.fetch(STAGE)
    assert progress.unlogged == []
