"""The log of a training run: `metrics.jsonl`, and the same numbers as TensorBoard events."""

import json
import os
import pathlib
import shutil
from typing import Any

import tensorboardX

from bt_jax.common import files

METRICS_FILE = "metrics.jsonl"
TENSORBOARD_FOLDER = "tensorboard"


def read_metrics(workdir: pathlib.Path) -> list[dict[str, Any]]:
    """Reads the rows of `metrics.jsonl`, without a last line that is incomplete after a kill."""
    path = workdir / METRICS_FILE
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines(keepends=True) if path.exists() else []:
        if line.endswith("\n"):
            rows.append(json.loads(line))
    return rows


class MetricsWriter:
    """A writer that appends rows. On opening, it removes rows after `step`, where the run resumes."""

    def __init__(self, workdir: pathlib.Path, *, step: int):
        rows = [row for row in read_metrics(workdir) if row["step"] <= step]
        path = workdir / METRICS_FILE
        files.write_text(path, "".join(json.dumps(row) + "\n" for row in rows))
        # The events are a copy of the rows. Writing them anew keeps both the same.
        shutil.rmtree(workdir / TENSORBOARD_FOLDER, ignore_errors=True)
        self._events = tensorboardX.SummaryWriter(str(workdir / TENSORBOARD_FOLDER))
        for row in rows:
            self._add_events(row)
        self._file = path.open("a", encoding="utf-8")

    def write(self, *, step: int, epoch: float, stage: int, **scalars: float) -> None:
        """Appends a row. Non-finite values become null. Names such as `train/loss` are passed as keywords."""
        row = files.make_json_safe({"step": step, "epoch": round(epoch, 4), "stage": stage, **scalars})
        self._file.write(json.dumps(row, allow_nan=False) + "\n")
        self._file.flush()
        self._add_events(row)

    def _add_events(self, row: dict[str, Any]) -> None:
        for name, value in row.items():
            if name != "step" and value is not None:
                self._events.add_scalar(name, value, row["step"])

    def sync(self) -> None:
        """Flushes the rows to the disk."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Flushes and closes the files."""
        self._file.close()
        self._events.close()


class NullMetricsWriter(MetricsWriter):
    """A writer that does nothing, for all processes but the first."""

    def __init__(self) -> None:
        pass

    def write(self, *, step: int, epoch: float, stage: int, **scalars: float) -> None:
        """Does nothing."""

    def sync(self) -> None:
        """Does nothing."""

    def close(self) -> None:
        """Does nothing."""
