"""The training loop: stage after stage, with logging, evaluation, checkpoints, early stopping and interruption."""

import dataclasses
import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
import tqdm

from bt_jax.common.errors import UsageError
from bt_jax.common.signals import Interrupt
from bt_jax.distributed import processes
from bt_jax.training.batches import Feed
from bt_jax.training.precompile import Programs
from bt_jax.training.profiler import Profiler, off
from bt_jax.training.progress import Progress
from bt_jax.training.stages import Stage
from bt_jax.training.train_state import TrainState
from bt_jax.training.watchdog import Watchdog
from bt_jax.workdir.checkpoint import Checkpoints, make_abstract
from bt_jax.workdir.metric_log import MetricsWriter
from bt_jax.workdir.run_folder import RunRecord

DIVERGED_ADVICE = (
    "lower config.stages.learning_rate (and head_learning_rate) or config.optimizer.clip_norm, in another --workdir; "
    "checkpoints written before stay as they are"
)


@dataclasses.dataclass
class Loop:
    """What a run needs to train, and its place in it.

    Attributes:
      plan: the stages.
      progress: where the run stands; moves with every step.
      programs: compiled steps by `Stage.program_segment`.
      feed: device batches.
      evaluate: (stage, state) -> numbers by name, `val/loss` among them.
      rate: (stage, step in stage) -> learning rate.
      checkpoints: where to save.
      model: description of the model, for the checkpoints' metadata.
      writer: for rows of metrics.
      record: for seconds by phase and stage.
      interrupt: asks the loop to save and stop.
      watchdog: is told of every step.
      publish: called when the files of the run have changed.
      batch_size: images in a step.
      steps_per_epoch: steps in an epoch.
      log_every: steps between rows.
      evaluate_every: steps between evaluations; the last step is always followed by one.
      checkpoint_every: steps between checkpoints besides those at evaluations; 0: none.
      patience: of early stopping; 0: off.
      began: `time.monotonic()` when the command began.
      profiler: of the steps.
    """

    plan: Sequence[Stage]
    progress: Progress
    programs: Programs
    feed: Feed
    evaluate: Callable[[Stage, TrainState], dict[str, float]]
    rate: Callable[[Stage, int], float]
    checkpoints: Checkpoints
    model: dict[str, Any]
    writer: MetricsWriter
    record: RunRecord
    interrupt: Interrupt
    watchdog: Watchdog
    publish: Callable[[], None]
    batch_size: int
    steps_per_epoch: int
    log_every: int
    evaluate_every: int
    checkpoint_every: int
    patience: int
    began: float
    profiler: Profiler = dataclasses.field(default_factory=off)

    def run(self, state: TrainState) -> TrainState:
        """Trains to the end of the plan, or saves and returns when interrupted.

        Raises:
          UsageError: a loss is not finite; the last good checkpoint stays.
        """
        self._fresh: list[dict[str, jax.Array | np.float32]] = []  # metrics still on the devices
        self._interval_began, self._interval_images = time.monotonic(), 0
        self._has_stepped = False
        progress = self.progress
        with tqdm.tqdm(
            total=self.plan[-1].last_step * self.batch_size,
            initial=progress.step * self.batch_size,
            unit=" images",
            dynamic_ncols=True,
            mininterval=0.5,
            smoothing=0.05,
            disable=not processes.is_first(),
        ) as self._bar:
            while True:
                stage = self.plan[progress.stage - 1]
                self._bar.set_description(f"stage {stage.number}/{len(self.plan)}", refresh=False)
                if progress.stage_is_over(stage, patience=self.patience):
                    if progress.patience_is_over(self.patience):
                        state = self._restored_best(state)
                    if stage is self.plan[-1]:
                        return state
                    progress.next_stage()
                elif self.interrupt:
                    self._fetch(stage)
                    self._save(state)
                    return state
                else:
                    state = self._run_stage(stage, state)

    def close(self) -> None:
        """Ends the data pipeline, the trace and the logs."""
        self.profiler.close()
        self.watchdog.close()
        self.feed.close()
        self.writer.close()

    def _run_stage(self, stage: Stage, state: TrainState) -> TrainState:
        begin = self._stage_counted_to = time.monotonic()
        program = self.programs.get(stage.program_segment, give_up=lambda: bool(self.interrupt))
        self.record.add_seconds("waiting for the compiler", time.monotonic() - begin)
        if program is None:
            return state
        for later in self.plan[stage.number :]:
            if later.program_segment != stage.program_segment:
                self.programs.start(later.program_segment)
                break
        progress = self.progress
        stop = progress.step + stage.steps - progress.step_in_stage
        if not self.feed.open(stage, state, start=progress.step, stop=stop, give_up=lambda: bool(self.interrupt)):
            return state
        self._restart_interval()
        while not self.interrupt and not progress.stage_is_over(stage, patience=self.patience):
            with self.watchdog.step(progress.step + 1), self.profiler.step(progress.step):
                asked = time.monotonic()
                batch = next(self.feed)
                self.record.add_seconds("waiting for data", time.monotonic() - asked)
                rate = self.rate(stage, progress.step_in_stage)
                state, metrics = program(state, batch, np.float32(rate), np.int32(stage.first_segment))
                self._fresh.append({**metrics, "learning_rate": np.float32(rate)})
                if not self._has_stepped:
                    self._note_first_step(metrics)
                progress.advance()
                self._bar.update(self.batch_size)
                self._interval_images += self.batch_size
                if progress.step % self.log_every == 0:
                    self._log(stage)
            self.profiler.after(state)
            self.checkpoints.seal_if_complete()
            self.interrupt.synchronise()
            is_last = stage is self.plan[-1] and progress.step_in_stage == stage.steps
            if progress.step % self.evaluate_every == 0 or is_last:
                self._fetch(stage)
                self._evaluate(stage, state)
                self._count_stage(stage)
                self._save(state)
            elif self.checkpoint_every and progress.step % self.checkpoint_every == 0:
                self._fetch(stage)
                self._save(state)
        self._fetch(stage)
        self._count_stage(stage)
        return state

    def _note_first_step(self, metrics: dict[str, jax.Array]) -> None:
        jax.block_until_ready(metrics)
        self._has_stepped = True
        seconds = time.monotonic() - self.began
        self.record.record_first_step(seconds)
        self._bar.write(f"first step after {seconds:.1f} s")

    def _count_stage(self, stage: Stage) -> None:
        now = time.monotonic()
        self.record.add_stage_seconds(stage.number, now - self._stage_counted_to)
        self._stage_counted_to = now

    def _fetch(self, stage: Stage) -> None:
        """Brings the steps' metrics to the host, and stops the run if a loss is not finite."""
        values = [{name: float(value) for name, value in metrics.items()} for metrics in self._fresh]
        first_step = self.progress.step - len(values)
        self._fresh = []
        for i, metrics in enumerate(values):
            for name in ("loss", "gradient_norm"):
                if not math.isfinite(metrics[name]):
                    raise UsageError(
                        f"the {name.replace('_', ' ')} is {metrics[name]} at step {first_step + i + 1}, in stage "
                        f"{stage.number} at learning rate {metrics['learning_rate']:.2g}: {DIVERGED_ADVICE}"
                    )
        self.progress.unlogged += values
        self.watchdog.fetched()

    def _log(self, stage: Stage) -> None:
        """Writes a row of the means over the steps since the last one."""
        self._fetch(stage)
        rows = self.progress.unlogged
        means = {f"train/{name}": sum(row[name] for row in rows) / len(rows) for name in rows[0]}
        means["train/learning_rate"] = rows[-1]["learning_rate"]
        seconds = max(time.monotonic() - self._interval_began, 1e-9)
        self._write(stage, {**means, "train/images_per_s": round(self._interval_images / seconds, 2)})
        self._bar.set_postfix(loss=f"{means['train/loss']:.3f}", refresh=False)
        self.progress.unlogged = []
        self._restart_interval()

    def _evaluate(self, stage: Stage, state: TrainState) -> None:
        with self.record.time_phase("evaluation"):
            values = self.evaluate(stage, state)
        self.progress.evaluated(values["val/loss"])
        self._write(stage, values)
        best = ", the best so far" if self.progress.best_step == self.progress.step else ""
        processes.say(
            f"step {self.progress.step}, epoch {self.progress.step / self.steps_per_epoch:.1f}, stage {stage.number}: "
            f"validation loss {values['val/loss']:.3f}, accuracy {values['val/accuracy']:.3f}, "
            f"macro-F1 {values['val/macro_f1']:.3f}{best}"
        )

    def _write(self, stage: Stage, values: dict[str, float]) -> None:
        epoch = self.progress.step / self.steps_per_epoch
        self.writer.write(step=self.progress.step, epoch=epoch, stage=stage.number, **values)

    def _save(self, state: TrainState) -> None:
        self.writer.sync()  # a checkpoint never outlives the rows before it
        self.publish()
        with self.record.time_phase("checkpoints"):
            self.checkpoints.save(
                self.progress.step,
                evaluation=state.for_evaluation(),
                training=state.for_resuming(),
                metadata={"progress": dataclasses.asdict(self.progress), "model": self.model},
                best_step=self.progress.best_step,
            )
        self.record.save()
        self._restart_interval()

    def _restored_best(self, state: TrainState) -> TrainState:
        """The best weights so far in the place of the current ones; steps are counted on."""
        step = self.progress.best_step
        if step is None or step == self.progress.step:
            return state
        processes.say(f"early stopping: back to the best weights, of step {step}")
        best = restore_state(self.checkpoints, step, like=state)
        return dataclasses.replace(best, step=state.step)

    def _restart_interval(self) -> None:
        self._interval_began, self._interval_images = time.monotonic(), 0


def restore_state(checkpoints: Checkpoints, step: int, *, like: TrainState) -> TrainState:
    """The state saved at a step, with the shapes, dtypes and shardings of a given state."""
    return TrainState.join(
        *checkpoints.restore(
            step, evaluation=make_abstract(like.for_evaluation()), training=make_abstract(like.for_resuming())
        )
    )
