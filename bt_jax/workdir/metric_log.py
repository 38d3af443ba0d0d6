"""What a run logs while it trains: `metrics.jsonl`, and the same numbers as TensorBoard events."""

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
    """The rows of `metrics.jsonl`, without a last line that was cut off by a kill."""
    path = workdir / METRICS_FILE
    rows = []
    for line in path.read_text().splitlines(keepends=True) if path.exists() else []:
        if line.endswith("\n"):
            rows.append(json.loads(line))
    return rows


class MetricsWriter:
    """Appends rows. On opening, rows after `step` are cut off, since the run goes on from there."""

    def __init__(self, workdir: pathlib.Path, *, step: int):
        rows = [row for row in read_metrics(workdir) if row["step"] <= step]
        path = workdir / METRICS_FILE
        files.write_text(path, "".join(json.dumps(row) + "\n" for row in rows))
        # The events are a copy of the rows: written anew, they hold nothing that the rows do not.
        shutil.rmtree(workdir / TENSORBOARD_FOLDER, ignore_errors=True)
        self._events = tensorboardX.SummaryWriter(str(workdir / TENSORBOARD_FOLDER))
        for row in rows:
            self._add_events(row)
        self._file = path.open("a")

    def write(self, *, step: int, epoch: float, stage: int, **scalars: float) -> None:
        """Adds a row; what is not finite becomes null. Names such as `train/loss` go in as keywords."""
        row = files.make_json_safe({"step": step, "epoch": round(epoch, 4), "stage": stage, **scalars})
        self._file.write(json.dumps(row, allow_nan=False) + "\n")
        self._file.flush()
        self._add_events(row)

    def _add_events(self, row: dict[str, Any]) -> None:
        for name, value in row.items():
            if name != "step" and value is not None:
                self._events.add_scalar(name, value, row["step"])

    def sync(self) -> None:
        """Returns when the rows are on the disk."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Writes out what is buffered."""
        self._file.close()
        self._events.close()


class NullMetricsWriter(MetricsWriter):
    """Of the processes that leave writing to the first one."""

    def __init__(self) -> None:
        pass

    def write(self, *, step: int, epoch: float, stage: int, **scalars: float) -> None:
        """Nothing."""

    def sync(self) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""
