import json
import pathlib
import struct

import numpy as np
import pytest
from tensorboardX.proto import event_pb2

from bt_jax.workdir import metric_log
from bt_jax.workdir.metric_log import MetricsWriter


def events(workdir: pathlib.Path) -> dict[tuple[int, str], float]:
    """(step, name) -> value of all TensorBoard events, in records of length, checksum, data, checksum."""
    found: dict[tuple[int, str], float] = {}
    for path in (workdir / metric_log.TENSORBOARD_FOLDER).iterdir():
        content, start = path.read_bytes(), 0
        while start < len(content):
            (length,) = struct.unpack_from("<Q", content, start)
            event = event_pb2.Event.FromString(content[start + 12 : start + 12 + length])
            for value in event.summary.value:
                assert (event.step, value.tag) not in found, "an event stands twice"
                found[event.step, value.tag] = value.simple_value
            start += 16 + length
    return found


def of_rows(workdir: pathlib.Path) -> dict[tuple[int, str], float]:
    return {
        (row["step"], name): float(np.float32(value))
        for row in metric_log.read_metrics(workdir)
        for name, value in row.items()
        if name != "step" and value is not None
    }


def write_steps(workdir: pathlib.Path, steps: range, *, after: int = 0, scale: float = 1.0) -> None:
    writer = MetricsWriter(workdir, step=after)
    for step in steps:
        writer.write(step=step, epoch=step / 7, stage=1 + step // 3, **{"train/loss": scale / (step + 1)})
    writer.close()
    # Its name holds the second, in which a test may well start again; a run does so later.
    (file,) = (workdir / metric_log.TENSORBOARD_FOLDER).iterdir()
    file.rename(file.with_name("events.out.tfevents.1000000000.earlier"))


def test_rows_are_json_lines(tmp_path):
    writer = MetricsWriter(tmp_path, step=0)
    writer.write(step=2, epoch=0.123456, stage=1, **{"train/loss": np.float32(0.5), "train/norm": float("nan")})
    # Readable at once, while the run goes on.
    lines = (tmp_path / metric_log.METRICS_FILE).read_text().splitlines()
    assert [json.loads(line, parse_constant=pytest.fail) for line in lines] == [
        {"step": 2, "epoch": 0.1235, "stage": 1, "train/loss": 0.5, "train/norm": None}
    ]
    writer.close()


def test_no_rows_yet(tmp_path):
    assert metric_log.read_metrics(tmp_path) == []
    MetricsWriter(tmp_path, step=0).close()
    assert metric_log.read_metrics(tmp_path) == [] and events(tmp_path) == {}


def test_events_are_the_rows(tmp_path):
    writer = MetricsWriter(tmp_path, step=0)
    writer.write(step=1, epoch=0.25, stage=1, **{"train/loss": 0.7})
    writer.write(step=2, epoch=0.5, stage=2, **{"train/loss": float("nan"), "val/loss": 0.6, "val/macro_f1": 0.25})
    writer.close()
    found = events(tmp_path)
    assert found == of_rows(tmp_path)
    assert found[2, "val/macro_f1"] == 0.25 and (2, "train/loss") not in found
    assert len(found) == 7


def test_on_resuming_rows_after_the_step_are_cut_in_both(tmp_path):
    write_steps(tmp_path, range(1, 9))
    write_steps(tmp_path, range(6, 8), after=5, scale=100.0)
    rows = metric_log.read_metrics(tmp_path)
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5, 6, 7]
    assert [row["train/loss"] for row in rows] == [1 / 2, 1 / 3, 1 / 4, 1 / 5, 1 / 6, 100 / 7, 100 / 8]
    assert events(tmp_path) == of_rows(tmp_path)


def test_a_resumed_run_leaves_the_same_bytes_as_one_that_never_stopped(tmp_path):
    write_steps(tmp_path / "whole", range(1, 9))
    write_steps(tmp_path / "resumed", range(1, 7))
    write_steps(tmp_path / "resumed", range(4, 9), after=3)
    whole, resumed = ((tmp_path / name / metric_log.METRICS_FILE).read_bytes() for name in ("whole", "resumed"))
    assert whole == resumed
    assert events(tmp_path / "whole") == events(tmp_path / "resumed")


def test_a_half_written_last_line_is_dropped(tmp_path):
    write_steps(tmp_path, range(1, 4))
    path = tmp_path / metric_log.METRICS_FILE
    whole = path.read_bytes()
    for cut in (b'{"step": 4, "epo', b'{"step": 4, "epoch": 1.0, "stage": 1}', b"{"):
        path.write_bytes(whole + cut)
        assert [row["step"] for row in metric_log.read_metrics(tmp_path)] == [1, 2, 3]
        write_steps(tmp_path, range(4, 5), after=4)
        assert [row["step"] for row in metric_log.read_metrics(tmp_path)] == [1, 2, 3, 4]
        assert path.read_bytes().startswith(whole)
        assert events(tmp_path) == of_rows(tmp_path)


def test_events_that_the_rows_do_not_hold_are_gone_after_a_resume(tmp_path):
    write_steps(tmp_path, range(1, 5))
    (tmp_path / metric_log.METRICS_FILE).write_text("")
    write_steps(tmp_path, range(1, 2), after=4)
    assert {step for step, _ in events(tmp_path)} == {1}
