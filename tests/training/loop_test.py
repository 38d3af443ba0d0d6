"""The loop around a step that only counts: in which order it steps, evaluates, saves, stops and resumes."""

import dataclasses
import gc
import json
import os
import signal
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bt_jax.common.errors import UsageError
from bt_jax.common.signals import Interrupt
from bt_jax.training.flat_layout import FlatLayout
from bt_jax.training.loop import Loop, fit
from bt_jax.training.progress import Cadence, Progress
from bt_jax.training.stages import Plan, Schedule, Stage
from bt_jax.training.train_state import TrainState
from bt_jax.workdir.run_folder import OpenRun, RunRecord

PARAMS = {"head": {"bias": np.zeros(2, np.float32)}}
LAYOUT = FlatLayout.of(PARAMS)

# Stage 1 has steps 1 to 4 of a program, stage 2 has steps 5 to 8 of another.
PLAN = Plan(
    stages=tuple(
        Stage(
            number=number, first_segment=segment, program_segment=segment, learning_rate=rate, steps=4, first_step=first
        )
        for number, segment, rate, first in ((1, 1, 0.1, 0), (2, 0, 0.01, 4))
    ),
    schedule=Schedule(warmup=0.0, decay="none", final=1.0),
    segment_names=("dense_1", "head"),
    batch_size=8,
    steps_per_epoch=4,
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Description:
    name: str = "a model"


class Fakes:
    """A step, its inputs, an evaluator and checkpoints that write down what they are asked for."""

    def __init__(self, losses=()):
        self.events, self.losses = [], iter(losses)
        self.on_step = lambda number: None
        self.metrics = lambda number: {"loss": 1.0 / number, "accuracy": 0.5, "gradient_norm": 2.0}
        self.saved, self.metadata, self.latest_step = {}, {}, None

    # The training step and its inputs.

    def compile(self, stage, state, batch):
        self.events.append(f"compile {stage.number}")

        def step(state, batch, rate, first_segment, seed):
            number = int(state.step) + 1
            self.events.append(f"step {number}")
            self.on_step(number)
            found = float(rate), int(first_segment), int(seed)
            assert found == (pytest.approx(stage.learning_rate), stage.first_segment, 3)
            params = jax.tree.map(lambda leaf: leaf + 1, state.params)
            return dataclasses.replace(state, step=state.step + 1, params=params), self.metrics(number)

        return step

    def describe_batch(self, stage):
        return {}

    def open(self, stage, state, *, start, stop, interrupted):
        self.events.append(f"open {start} to {stop}")
        return not interrupted()

    def __next__(self):
        return {}

    def close(self):
        self.events.append("close")

    # The evaluator.

    def score(self, stage, state):
        self.events.append(f"evaluate {int(state.step)}")
        return {"val/loss": next(self.losses), "val/accuracy": 0.5, "val/macro_f1": 0.5}

    # The checkpoints.

    def save(self, step, *, evaluation, training, metadata, best_step):
        self.events.append(f"save {step}")
        self.saved[step], self.metadata[step], self.latest_step = (evaluation, training), metadata, step
        assert metadata["progress"]["best_step"] == best_step

    def restore(self, step, *, evaluation, training):
        self.events.append(f"restore {step}")
        return self.saved[step]

    def seal_if_complete(self):
        pass


def make_setup(fakes, *, progress=None, evaluate_every=100, checkpoint_every=0, patience=0, log_every=2):
    progress = progress or Progress()
    state = TrainState(
        step=jnp.int32(progress.step),
        params=LAYOUT.flatten(PARAMS),
        batch_stats={},
        opt_state=(),
        average=None,
        layout=LAYOUT,
        stats_layout=FlatLayout.of({}),
    )
    return types.SimpleNamespace(
        plan=PLAN,
        cadence=Cadence(
            log_every=log_every, evaluate_every=evaluate_every, checkpoint_every=checkpoint_every, patience=patience
        ),
        step=fakes, seed=3, inputs=fakes, evaluator=fakes, description=Description(), mesh=None, state=state,
        progress=progress, profile="", slow_step=0.0,
    )  # fmt: skip


def make_run(fakes, folder):
    record = RunRecord.open(folder)
    record.record_start(step=0)
    return OpenRun(folder=folder, checkpoints=fakes, record=record, began=0.0)


def train(fakes, folder, *, interrupt=None, **settings):
    """The state at the end, and where the run stands."""
    setup = make_setup(fakes, **settings)
    loop = Loop(setup, make_run(fakes, folder), Interrupt() if interrupt is None else interrupt)
    try:
        return loop.run(setup.state), setup.progress
    finally:
        loop.close()


def without_compiling(events):
    return [event for event in events if not event.startswith("compile")]


def test_a_whole_plan(tmp_path):
    """An evaluation every three steps and after the last one, a checkpoint with each and every two steps."""
    fakes = Fakes(losses=[3.0, 1.0, 2.0])
    state, progress = train(fakes, tmp_path, evaluate_every=3, checkpoint_every=2)
    assert without_compiling(fakes.events) == [
        "open 0 to 4", "step 1", "step 2", "save 2", "step 3", "evaluate 3", "save 3", "step 4", "save 4",
        "open 4 to 8", "step 5", "step 6", "evaluate 6", "save 6", "step 7", "step 8", "evaluate 8", "save 8", "close",
    ]  # fmt: skip
    assert int(state.step) == 8
    assert (progress.step, progress.stage, progress.best_step, progress.best_loss) == (8, 2, 6, 1.0)
    assert fakes.metadata[8]["model"] == {"name": "a model"}
    assert fakes.metadata[4]["progress"] | {"unlogged": None} == {
        "step": 4, "stage": 1, "step_in_stage": 4, "best_loss": 3.0, "best_step": 3, "evaluations_without_gain": 0,
        "unlogged": None,
    }  # fmt: skip


def test_the_search_for_cyclic_garbage_passes_over_what_each_program_left(tmp_path, monkeypatch):
    frozen, calls = [], []
    freeze = gc.freeze
    monkeypatch.setattr(gc, "freeze", lambda: calls.append(len(frozen)) or freeze())
    fakes = Fakes(losses=[1.0])
    fakes.on_step = lambda number: frozen.append(gc.get_freeze_count())
    train(fakes, tmp_path)
    assert frozen[0] == 0
    assert min(frozen[1:]) > 10_000  # JAX alone has more
    assert calls == [1, 5]  # steps: stage 2, from the fifth on, has another program
    assert gc.get_freeze_count() == 0


def test_the_next_stage_is_compiled_while_the_current_one_trains(tmp_path):
    fakes = Fakes(losses=[1.0])
    compiled = []
    fakes.on_step = lambda number: compiled.append(sum(event.startswith("compile") for event in fakes.events))
    train(fakes, tmp_path)
    assert [event for event in fakes.events if event.startswith("compile")] == ["compile 1", "compile 2"]
    assert compiled[-1] == 2 and compiled[4] == 2, "compiled before its first step"


def test_rows_are_means_and_keep_the_last_rate(tmp_path):
    fakes = Fakes(losses=[0.25])
    train(fakes, tmp_path, log_every=4)
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [(row["step"], row["stage"], row["epoch"]) for row in rows] == [(4, 1, 1.0), (8, 2, 2.0), (8, 2, 2.0)]
    assert rows[0]["train/loss"] == pytest.approx((1 + 1 / 2 + 1 / 3 + 1 / 4) / 4)
    assert rows[0]["train/learning_rate"] == pytest.approx(0.1)
    assert rows[1]["train/learning_rate"] == pytest.approx(0.01)
    assert rows[2]["val/loss"] == 0.25


def test_a_resumed_run_goes_on_in_its_stage(tmp_path):
    fakes = Fakes(losses=[1.0])
    progress = Progress(step=3, stage=1, step_in_stage=3, unlogged=[{
        "loss": 9.0, "accuracy": 0.0, "gradient_norm": 1.0, "learning_rate": 0.1,
    }])  # fmt: skip
    state, _ = train(fakes, tmp_path, progress=progress)
    assert without_compiling(fakes.events)[:3] == ["open 3 to 4", "step 4", "open 4 to 8"]
    assert int(state.step) == 8
    first = json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[0])
    assert (first["step"], first["train/loss"]) == (4, (9.0 + 1 / 4) / 2)


def test_a_finished_run_trains_nothing(tmp_path):
    fakes = Fakes()
    state, _ = train(fakes, tmp_path, progress=Progress(step=8, stage=2, step_in_stage=4, best_step=8))
    assert fakes.events == ["close"] and int(state.step) == 8


@pytest.mark.parametrize("step", [1, 4, 6])
def test_an_interrupted_run_saves_and_returns(tmp_path, step):
    """In a stage, and at the end of one: the next one does not begin. The metrics are saved with it."""
    fakes, interrupt = Fakes(), Interrupt()

    def ask(number):
        if number == step:
            interrupt.number = signal.SIGTERM

    fakes.on_step = ask
    state, progress = train(fakes, tmp_path, interrupt=interrupt, log_every=100)
    assert fakes.events[-2:] == [f"save {step}", "close"]
    assert fakes.events.count(f"save {step}") == 1 and f"step {step + 1}" not in fakes.events
    assert int(state.step) == progress.step == step
    assert [row["loss"] for row in fakes.metadata[step]["progress"]["unlogged"]] == [1 / n for n in range(1, step + 1)]


def test_a_stage_without_gain_ends_early_with_the_best_weights(tmp_path, capsys):
    """Stage 1 evaluates 1.0, then 2.0: it ends after step 2 with the weights of step 1. Stage 2 starts from those."""
    fakes = Fakes(losses=[1.0, 2.0, 0.9, 0.8, 0.7, 0.6])
    state, progress = train(fakes, tmp_path, evaluate_every=1, patience=1)
    steps = [event for event in without_compiling(fakes.events) if event.split()[0] in ("step", "restore", "open")]
    assert steps == [
        "open 0 to 4", "step 1", "step 2", "restore 1", "open 2 to 6", "step 3", "step 4", "step 5", "step 6",
    ]  # fmt: skip
    assert (progress.step, progress.best_step) == (6, 6)
    np.testing.assert_array_equal(state.get_params()["head"]["bias"], np.full(2, 5.0))  # of step 1, and four steps more
    assert "early stopping: back to the best weights, of step 1" in capsys.readouterr().out


@pytest.mark.parametrize(("name", "told"), [("loss", "the loss is nan"), ("gradient_norm", "the gradient norm is nan")])
def test_a_value_that_is_not_finite_stops_the_run_before_it_is_saved(tmp_path, name, told):
    fakes = Fakes()
    metrics = fakes.metrics
    fakes.metrics = lambda number: metrics(number) | ({name: float("nan")} if number == 3 else {})
    with pytest.raises(UsageError, match=rf"{told} at step 3, in stage 1 at learning rate 0\.1: lower config\.stages"):
        train(fakes, tmp_path, checkpoint_every=2)
    assert [event for event in fakes.events if event.startswith("save")] == ["save 2"]
    assert fakes.events[-1] == "close"


def test_fit_ends_at_the_end_of_the_plan(tmp_path):
    fakes = Fakes(losses=[1.0])
    setup = make_setup(fakes)
    result = fit(setup, make_run(fakes, tmp_path))
    assert (result.status, int(result.state.step), result.progress) == (0, 8, setup.progress)
    assert json.loads((tmp_path / "run.json").read_text())["seconds_by_stage"].keys() == {"1", "2"}


def test_fit_saves_at_a_signal_and_gives_back_the_handlers(tmp_path, capsys):
    fakes, before = Fakes(), signal.getsignal(signal.SIGTERM)
    fakes.on_step = lambda number: os.kill(os.getpid(), signal.SIGTERM) if number == 5 else None
    result = fit(make_setup(fakes), make_run(fakes, tmp_path))
    assert (result.status, result.progress.step) == (128 + signal.SIGTERM, 5)
    assert fakes.events[-2:] == ["save 5", "close"]
    assert "interrupted: saved at step 5; the same command goes on from there" in capsys.readouterr().out
    assert signal.getsignal(signal.SIGTERM) is before
