"""The metrics of training steps on their way from the devices to `metrics.jsonl`, and the progress bar."""

import math
import time

import jax
import numpy as np
import tqdm

from bt_jax.common.errors import UsageError
from bt_jax.distributed import processes
from bt_jax.training.progress import Progress
from bt_jax.training.stages import DIVERGED_ADVICE, Plan, Stage
from bt_jax.workdir.metric_log import MetricsWriter


class StepLog:
    """Collects the metrics of steps and writes rows of their means.

    Metrics stay on the devices until they are fetched, so that no step waits for them.

    Args:
      writer: of the rows.
      plan: the stages.
      progress: where the run stands; holds the metrics that are not in a row yet.
    """

    def __init__(self, writer: MetricsWriter, plan: Plan, progress: Progress):
        self._writer, self._plan, self._progress = writer, plan, progress
        self._on_devices: list[dict[str, jax.Array | np.float32]] = []
        self.restart_interval()
        self._bar = tqdm.tqdm(
            total=plan.steps * plan.batch_size,
            initial=progress.step * plan.batch_size,
            unit=" images",
            dynamic_ncols=True,
            mininterval=0.5,
            smoothing=0.05,
            disable=not processes.is_first(),
        )

    def show_stage(self, stage: Stage) -> None:
        """Shows on the bar which stage is trained."""
        self._bar.set_description(f"stage {stage.number}/{len(self._plan.stages)}", refresh=False)

    def show_line(self, line: str) -> None:
        """Prints a line above the bar."""
        self._bar.write(line)

    def add(self, metrics: dict[str, jax.Array], *, learning_rate: float) -> None:
        """Takes in the metrics of a step, which may still be running."""
        self._on_devices.append({**metrics, "learning_rate": np.float32(learning_rate)})
        self._bar.update(self._plan.batch_size)
        self._interval_images += self._plan.batch_size

    def fetch(self, stage: Stage) -> None:
        """Brings all metrics to the host.

        Raises:
          UsageError: the loss or the gradient norm of a step is not finite.
        """
        values = [{name: float(value) for name, value in metrics.items()} for metrics in self._on_devices]
        first_step = self._progress.step - len(values)
        self._on_devices = []
        for i, metrics in enumerate(values):
            for name in ("loss", "gradient_norm"):
                if not math.isfinite(metrics[name]):
                    raise UsageError(
                        f"the {name.replace('_', ' ')} is {metrics[name]} at step {first_step + i + 1}, in stage "
                        f"{stage.number} at learning rate {metrics['learning_rate']:.2g}: {DIVERGED_ADVICE}"
                    )
        self._progress.unlogged += values

    def write_means(self, stage: Stage) -> None:
        """Writes a row of the means over the fetched steps since the last row."""
        rows = self._progress.unlogged
        means = {f"train/{name}": sum(row[name] for row in rows) / len(rows) for name in rows[0]}
        means["train/learning_rate"] = rows[-1]["learning_rate"]
        seconds = max(time.monotonic() - self._interval_began, 1e-9)
        self.write(stage, {**means, "train/images_per_s": round(self._interval_images / seconds, 2)})
        self._bar.set_postfix(loss=f"{means['train/loss']:.3f}", refresh=False)
        self._progress.unlogged = []
        self.restart_interval()

    def write(self, stage: Stage, values: dict[str, float]) -> None:
        """Writes a row of other values."""
        step = self._progress.step
        self._writer.write(step=step, epoch=self._plan.compute_epoch(step), stage=stage.number, **values)

    def restart_interval(self) -> None:
        """Starts to measure the images per second anew, such as after an evaluation."""
        self._interval_began, self._interval_images = time.monotonic(), 0

    def sync(self) -> None:
        """Returns when the rows are on the disk."""
        self._writer.sync()

    def close(self) -> None:
        """Closes the bar and the files."""
        self._bar.close()
        self._writer.close()
