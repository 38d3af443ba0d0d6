"""The training loop, stage after stage: `fit`."""

import contextlib
import dataclasses
import gc
import time

import jax
import numpy as np

from bt_jax.common import waiting
from bt_jax.common.signals import Interrupt, catch_signals
from bt_jax.data.augment.augment import encode_seed
from bt_jax.distributed import processes
from bt_jax.training.evaluator import Evaluator
from bt_jax.training.precompile import Programs
from bt_jax.training.profiler import Profiler
from bt_jax.training.progress import Progress
from bt_jax.training.setup import Setup
from bt_jax.training.stages import Stage
from bt_jax.training.step_log import StepLog
from bt_jax.training.train_state import STATE_FORMAT, TrainState, restore_state
from bt_jax.training.train_step import Metrics, StepFunction
from bt_jax.training.watchdog import Watchdog
from bt_jax.workdir.metric_log import MetricsWriter, NullMetricsWriter
from bt_jax.workdir.run_folder import OpenRun


@dataclasses.dataclass(frozen=True)
class TrainingResult:
    """How training ended.

    Attributes:
      state: after the last step.
      progress: where the run stands.
      status: 0 at the end of the plan, or 128 + the number of the signal that interrupted the run.
    """

    state: TrainState
    progress: Progress
    status: int


def fit(setup: Setup, run: OpenRun) -> TrainingResult:
    """Trains to the end of the plan. SIGINT or SIGTERM saves a checkpoint and returns early.

    Args:
      setup: from `setup.prepare`; its state is used up.
      run: the open workdir.

    Raises:
      UsageError: a loss is not finite; the last good checkpoint stays.
    """
    agreement = processes.StopAgreement(setup.mesh) if processes.is_distributed() else None
    with catch_signals(agreement) as interrupt:
        with contextlib.closing(Loop(setup, run, interrupt)) as loop:
            state = loop.run(setup.state)
        status = interrupt.status if interrupt else 0
        if status:
            # Waited for here, where the handlers still hold: the other one of the two signals must not end the save.
            step = run.checkpoints.latest_step
            processes.say(f"interrupted: saved at step {step}; the same command goes on from there")
        return TrainingResult(state, setup.progress, status)


class Loop:
    """Trains, logs, evaluates, saves, stops stages early, and ends when interrupted.

    Args:
      setup: what is trained and how.
      run: the open workdir.
      interrupt: asks the loop to save and return.
    """

    def __init__(self, setup: Setup, run: OpenRun, interrupt: Interrupt):
        self._setup, self._run, self._interrupt = setup, run, interrupt
        self._plan, self._cadence, self._progress = setup.plan, setup.cadence, setup.progress
        self._programs = Programs(setup.step, setup.inputs, setup.state)
        self._profiler = Profiler(setup.profile, run.folder, steps=self._plan.steps)
        writer = MetricsWriter(run.folder, step=self._progress.step) if processes.is_first() else NullMetricsWriter()
        self._log = StepLog(writer, self._plan, self._progress)
        self._watchdog = Watchdog(times=setup.slow_step, folder=run.folder, warn=processes.say)
        self._seed = encode_seed(setup.seed)
        self._has_stepped = False
        self._used_programs: set[int] = set()

    def run(self, state: TrainState) -> TrainState:
        """Trains to the end of the plan, or saves and returns when interrupted."""
        progress, patience = self._progress, self._cadence.patience
        while True:
            stage = self._plan.get_stage(progress.stage)
            self._log.show_stage(stage)
            if progress.is_stage_over(stage, patience=patience):
                if progress.is_patience_over(patience):
                    state = self._restore_best(state)
                if self._plan.is_last(stage):
                    return state
                progress.start_next_stage()
            elif self._interrupt:
                self._fetch_metrics(stage)
                self._save(state)
                return state
            else:
                state = self._train_stage(stage, state)

    def close(self) -> None:
        """Closes the stream of batches, the trace and the logs."""
        gc.unfreeze()
        self._profiler.close()
        self._watchdog.close()
        self._setup.inputs.close()
        self._log.close()

    def _train_stage(self, stage: Stage, state: TrainState) -> TrainState:
        """Trains to the end of a stage, or until interrupted."""
        self._stage_timed_until = time.monotonic()
        self._programs.start_ahead(stage)  # while features are computed
        step = self._compile(stage) if self._open_inputs(stage, state) else None
        if step is None:
            return state
        self._log.restart_interval()
        while not self._interrupt and not self._progress.is_stage_over(stage, patience=self._cadence.patience):
            state = self._train_step(step, stage, state)
            self._profiler.stop_if_over(state)
            self._run.checkpoints.seal_if_complete()
            self._interrupt.synchronise()
            if self._is_evaluation_due(stage):
                self._fetch_metrics(stage)
                if self._setup.evaluator is not None:
                    self._evaluate(self._setup.evaluator, stage, state)
                self._add_stage_time(stage)
                self._save(state)
            elif self._is_checkpoint_due():
                self._fetch_metrics(stage)
                self._save(state)
        self._fetch_metrics(stage)
        self._add_stage_time(stage)
        return state

    def _train_step(self, step: StepFunction, stage: Stage, state: TrainState) -> TrainState:
        progress = self._progress
        with self._watchdog.watch_step(progress.step + 1), self._profiler.trace_step(progress.step):
            asked = time.monotonic()
            batch = next(self._setup.inputs)
            self._run.record.add_seconds("waiting for data", time.monotonic() - asked)
            rate = self._plan.schedule.compute_rate(stage, progress.step_in_stage)
            state, metrics = step(state, batch, np.float32(rate), np.int32(stage.first_segment), self._seed)
            self._log.add(metrics, learning_rate=rate)
            if not self._has_stepped:
                self._note_first_step(metrics)
            if stage.program_segment not in self._used_programs:
                self._used_programs.add(stage.program_segment)
                # What JAX keeps of traced programs stays to the end. Searching it for cycles took 0.4 s every 50 steps.
                gc.collect()
                gc.freeze()
            progress.advance()
            if progress.step % self._cadence.log_every == 0:
                self._fetch_metrics(stage)
                self._log.write_means(stage)
        return state

    def _compile(self, stage: Stage) -> StepFunction | None:
        """Returns a stage's step, and starts to compile the next one; None when interrupted meanwhile."""
        begin = time.monotonic()
        with waiting.report(f"compiling the step of stage {stage.number}", say=processes.say):
            step = self._programs.get(stage, interrupted=self._is_interrupted)
        self._run.record.add_seconds("waiting for the compiler", time.monotonic() - begin)
        following = self._plan.find_next_program(stage)
        if step is not None and following is not None:
            self._programs.start_ahead(following)
        return step

    def _open_inputs(self, stage: Stage, state: TrainState) -> bool:
        """Opens the stage's batches; False when interrupted meanwhile."""
        start = self._progress.step
        stop = start + stage.steps - self._progress.step_in_stage
        return self._setup.inputs.open(stage, state, start=start, stop=stop, interrupted=self._is_interrupted)

    def _is_interrupted(self) -> bool:
        return bool(self._interrupt)

    def _is_evaluation_due(self, stage: Stage) -> bool:
        is_last_step = self._plan.is_last(stage) and self._progress.step_in_stage == stage.steps
        return is_last_step or self._progress.step % self._cadence.evaluate_every == 0

    def _is_checkpoint_due(self) -> bool:
        every = self._cadence.checkpoint_every
        return bool(every) and self._progress.step % every == 0

    def _note_first_step(self, metrics: Metrics) -> None:
        jax.block_until_ready(metrics)
        self._has_stepped = True
        seconds = time.monotonic() - self._run.began
        self._run.record.record_first_step(seconds)
        self._log.show_line(f"first step after {seconds:.1f} s")

    def _add_stage_time(self, stage: Stage) -> None:
        now = time.monotonic()
        self._run.record.add_stage_seconds(stage.number, now - self._stage_timed_until)
        self._stage_timed_until = now

    def _fetch_metrics(self, stage: Stage) -> None:
        self._log.fetch(stage)
        self._watchdog.note_fetch()

    def _evaluate(self, evaluator: Evaluator, stage: Stage, state: TrainState) -> None:
        progress = self._progress
        said = waiting.report("evaluating on the validation images", say=processes.say)
        with self._run.record.time_phase("evaluation"), said:
            values = evaluator.score(stage, state)
        progress.record_evaluation(values["val/loss"])
        self._log.write(stage, values)
        best = ", the best so far" if progress.best_step == progress.step else ""
        processes.say(
            f"step {progress.step}, epoch {self._plan.compute_epoch(progress.step):.1f}, stage {stage.number}: "
            f"validation loss {values['val/loss']:.3f}, accuracy {values['val/accuracy']:.3f}, "
            f"macro-F1 {values['val/macro_f1']:.3f}{best}"
        )

    def _save(self, state: TrainState) -> None:
        self._log.sync()  # a checkpoint never outlives the rows before it
        self._run.publish()
        with self._run.record.time_phase("checkpoints"):
            self._run.checkpoints.save(
                self._progress.step,
                evaluation=state.get_evaluation_weights(),
                training=state.get_resuming_state(),
                metadata={
                    "progress": dataclasses.asdict(self._progress),
                    "model": dataclasses.asdict(self._setup.description),
                    "state_format": STATE_FORMAT,
                },
                best_step=self._progress.best_step,
            )
        self._run.record.save()
        self._log.restart_interval()

    def _restore_best(self, state: TrainState) -> TrainState:
        """Returns the best weights so far in place of the current ones; the number of steps stays."""
        step = self._progress.best_step
        if step is None or step == self._progress.step:
            return state
        processes.say(f"early stopping: back to the best weights, of step {step}")
        best = restore_state(self._run.checkpoints, step, like=state)
        return dataclasses.replace(best, step=state.step)
