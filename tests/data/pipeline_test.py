import os
import pathlib
import signal
import subprocess
import sys
import time
from typing import Any

import numpy as np
import pytest
from absl import flags

from bt_jax.common.errors import UsageError
from bt_jax.data import pipeline
from bt_jax.data.sampler import Sampler

RECORDS, SIZE, BATCH = 22, 24, 6
STEPS_PER_EPOCH = RECORDS // BATCH
IMAGES = np.random.default_rng(0).integers(0, 256, (RECORDS, SIZE, SIZE), dtype=np.uint8)
LABELS = np.arange(RECORDS, dtype=np.int32)  # the record's number, to recognise it by
KEYS = {"image", "view", "record", "label"}


@pytest.fixture(autouse=True, scope="module")
def parsed_flags() -> None:
    """Grain reads flags of its own, which a command has parsed."""
    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()


def batches(start: int, stop: int, *, seed: int = 5, **options: Any) -> list[pipeline.Batch]:
    options = {"views": 0} | options
    sampler = Sampler(records=RECORDS, batch_size=BATCH, seed=seed)
    return list(
        pipeline.load_training_batches(IMAGES, LABELS, sampler=sampler, start_step=start, stop_step=stop, **options)
    )


def assert_same(a: list[pipeline.Batch], b: list[pipeline.Batch]) -> None:
    assert len(a) == len(b)
    for left, right in zip(a, b, strict=True):
        assert left.keys() == right.keys() == KEYS
        for key in left:
            np.testing.assert_array_equal(left[key], right[key])


def list_views(found: list[pipeline.Batch]) -> dict[int, list[int]]:
    """The numbers of the views of each record, in order."""
    views: dict[int, list[int]] = {}
    for batch in found:
        for record, view in zip(batch["record"].tolist(), batch["view"].tolist(), strict=True):
            views.setdefault(record, []).append(view)
    return views


def test_batches_are_what_the_order_says():
    sampler = Sampler(records=RECORDS, batch_size=BATCH, seed=5)
    found = batches(2, 7)
    assert len(found) == 5
    for step, batch in enumerate(found, 2):
        assert batch["image"].shape == (BATCH, SIZE, SIZE) and batch["image"].dtype == np.uint8
        assert batch["label"].shape == (BATCH,) and batch["label"].dtype == np.int32
        assert batch["view"].dtype == batch["record"].dtype == np.uint32
        examples = [sampler(step * BATCH + row) for row in range(BATCH)]
        assert batch["record"].tolist() == batch["label"].tolist() == [example.record for example in examples]
        assert batch["view"].tolist() == [example.epoch for example in examples]
        np.testing.assert_array_equal(batch["image"], IMAGES[batch["record"]])


def test_weights_come_with_their_images():
    weights = np.linspace(0.5, 2, RECORDS, dtype=np.float32)
    for batch in batches(0, 4, weights=weights):
        assert batch.keys() == KEYS | {"weight"} and batch["weight"].dtype == np.float32
        np.testing.assert_array_equal(batch["weight"], weights[batch["label"]])


def test_an_epoch_shows_every_record_at_most_once():
    for epoch in range(3):
        found = batches(epoch * STEPS_PER_EPOCH, (epoch + 1) * STEPS_PER_EPOCH)
        seen = np.concatenate([batch["label"] for batch in found])
        assert len(np.unique(seen)) == STEPS_PER_EPOCH * BATCH


@pytest.mark.parametrize("threads", [0, 1, 4])
def test_threads_change_nothing(threads):
    assert_same(batches(0, 9, threads=threads), batches(0, 9, threads=2))


@pytest.mark.parametrize("step", [1, STEPS_PER_EPOCH, STEPS_PER_EPOCH + 2])
def test_seeking_equals_continuing(step):
    assert_same(batches(step, 9), batches(0, 9)[step:])


def test_shards_of_hosts_make_up_the_whole_batch():
    whole = batches(1, 6)
    for hosts in (2, 3):
        rows = np.split(np.arange(BATCH), hosts)
        shards = [batches(1, 6, rows=held) for held in rows]
        assert all(batch["label"].shape == (BATCH // hosts,) for shard in shards for batch in shard)
        assert_same([{key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
                     for parts in zip(*shards, strict=True)], whole)  # fmt: skip


def test_rows_of_a_host_need_not_stand_together():
    held = [1, 4, 5]
    assert_same(batches(2, 5, rows=held), [{key: rows[held] for key, rows in one.items()} for one in batches(2, 5)])


def test_bounded_views_repeat_and_unbounded_ones_do_not():
    epochs = 6
    for views in list_views(batches(0, epochs * STEPS_PER_EPOCH, views=2)).values():
        assert set(views) <= {0, 1}
    several = list_views(batches(0, epochs * STEPS_PER_EPOCH, views=0))
    assert sum(map(len, several.values())) == epochs * STEPS_PER_EPOCH * BATCH
    assert all(len(set(views)) == len(views) for views in several.values())


def test_no_steps_left_is_no_batch():
    assert batches(4, 4) == []


def test_the_given_arrays_stay_as_they_are():
    before = IMAGES.copy()
    batches(0, 5)
    np.testing.assert_array_equal(IMAGES, before)


# A program of its own, since worker processes import the main module anew.
WORKERS = """
import sys
import numpy as np
from absl import flags
from bt_jax.data import pipeline
from bt_jax.data.sampler import Sampler

if __name__ == "__main__":
    flags.FLAGS(sys.argv[:1])
    content = np.load(sys.argv[1])
    found = list(pipeline.load_training_batches(
        content["images"], content["labels"], sampler=Sampler(records=22, batch_size=6, seed=5),
        views=0, start_step=2, stop_step=9,
        workers=int(sys.argv[3]), threads=1,
    ))
    np.savez(sys.argv[2], **{key: np.stack([batch[key] for batch in found]) for key in found[0]})
"""


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_worker_processes_change_nothing(tmp_path, workers):
    np.savez(tmp_path / "in.npz", images=IMAGES, labels=LABELS)
    (tmp_path / "program.py").write_text(WORKERS)
    root = pathlib.Path(pipeline.__file__).parents[2]
    subprocess.run(
        [sys.executable, "program.py", "in.npz", "out.npz", str(workers)],
        cwd=tmp_path, check=True, timeout=120, env={**os.environ, "PYTHONPATH": str(root)},
    )  # fmt: skip
    with np.load(tmp_path / "out.npz") as content:
        found = [{key: content[key][i] for key in KEYS} for i in range(len(content["label"]))]
    assert_same(found, batches(2, 9))


def test_ahead_starts_transfers_early_and_keeps_the_order():
    log: list[str] = []

    def items():
        try:
            for i in range(5):
                log.append(f"make {i}")
                yield i
        finally:
            log.append("closed")

    def transfer(i: int) -> int:
        log.append(f"send {i}")
        return i * 10

    stream = pipeline.prefetch(items(), transfer, count=2)
    assert next(stream) == 0
    assert log == ["make 0", "send 0", "make 1", "send 1", "make 2", "send 2"]
    assert list(stream) == [10, 20, 30, 40]
    assert log[-1] == "closed"


def test_ahead_closes_its_items_when_it_is_closed():
    closed = []

    def items():
        try:
            yield from range(100)
        finally:
            closed.append(True)

    stream = pipeline.prefetch(items(), str)
    assert next(stream) == "0"
    stream.close()
    assert closed == [True]


class Watched:
    """Images that note which of them were read, and one of which cannot be."""

    shape = IMAGES.shape

    def __init__(self, broken: int = -1):
        self.read: list[int] = []
        self._broken = broken

    def __getitem__(self, record: int) -> np.ndarray:
        if record == self._broken:
            raise BrokenError("no such file")
        self.read.append(record)
        return IMAGES[record]


class BrokenError(RuntimeError):
    """What reading may raise."""


def test_leaving_early_stops_the_loading():
    images = Watched()
    stream = pipeline.load_training_batches(
        images, LABELS, sampler=Sampler(records=RECORDS, batch_size=BATCH, seed=5), views=0,
        start_step=0, stop_step=10_000,
    )  # fmt: skip
    next(stream)
    stream.close()
    time.sleep(0.1)
    after = len(images.read)
    time.sleep(0.1)
    assert BATCH <= len(images.read) == after < 20 * BATCH


@pytest.mark.parametrize("threads", [0, 2])
def test_an_image_that_cannot_be_read_is_named(threads):
    names = [f"Training/image_{record}.png" for record in range(RECORDS)]
    options = {"sampler": Sampler(records=RECORDS, batch_size=BATCH, seed=5), "start_step": 0, "stop_step": 3}
    for given, name in ((names, r"Training/image_7\.png"), (None, "image 7")):
        with pytest.raises(UsageError, match=rf"^cannot read {name}: BrokenError: no such file$"):
            list(pipeline.load_training_batches(Watched(7), LABELS, views=0, threads=threads, names=given, **options))


# The worker process imports the module anew, so the failure is in what it loads: an image too small for its labels.
FAILING_WORKER = WORKERS.replace('content["images"], content["labels"]', 'content["images"], content["labels"][:15]')


@pytest.mark.slow
def test_a_failure_in_a_worker_process_is_one_line_too(tmp_path):
    np.savez(tmp_path / "in.npz", images=IMAGES, labels=LABELS)
    (tmp_path / "program.py").write_text(FAILING_WORKER)
    root = pathlib.Path(pipeline.__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "program.py", "in.npz", "out.npz", "1"], cwd=tmp_path, timeout=120, capture_output=True,
        env={**os.environ, "PYTHONPATH": str(root)}, text=True,
    )  # fmt: skip
    assert done.returncode != 0
    assert "bt_jax.common.errors.UsageError: " in done.stderr.splitlines()[-1]


# It names its worker when a batch has come from there, and waits to be killed.
KILLED = WORKERS.replace("found = list(", "stream = (").replace("stop_step=9", "stop_step=10**6").replace(
    "    np.savez(", """    next(stream)
    import multiprocessing, time
    print(multiprocessing.active_children()[0].pid, flush=True)
    try:
        while True:
            next(stream)
    except Exception as error:
        print(type(error).__name__, error, flush=True)
    raise SystemExit
    np.savez(""",
)  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("victim", ["worker", "main"])
def test_when_a_worker_is_killed_it_is_told_and_when_the_main_process_is_the_worker_ends(tmp_path, victim):
    np.savez(tmp_path / "in.npz", images=IMAGES, labels=LABELS)
    (tmp_path / "program.py").write_text(KILLED)
    root = pathlib.Path(pipeline.__file__).parents[2]
    main = subprocess.Popen(
        [sys.executable, "program.py", "in.npz", "out.npz", "1"], cwd=tmp_path, stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL, env={**os.environ, "PYTHONPATH": str(root)}, text=True,
    )  # fmt: skip
    assert main.stdout is not None
    worker = int(main.stdout.readline())
    os.kill(worker if victim == "worker" else main.pid, signal.SIGKILL)
    output, _ = main.communicate(timeout=60)
    if victim == "worker":
        assert output.startswith("UsageError a process that loads images failed: Worker process was terminated")
    deadline = time.monotonic() + 20
    while pathlib.Path(f"/proc/{worker}").exists():
        assert time.monotonic() < deadline, "the worker outlives the process that started it"
        time.sleep(0.05)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"views": -1}, r"config\.data\.views is -1"),
        ({"workers": -1}, r"config\.data\.workers is -1"),
        ({"threads": -1}, r"config\.data\.threads is -1"),
    ],
)
def test_impossible_values(options, message):
    with pytest.raises(UsageError, match=message):
        batches(0, 1, **options)


def test_a_failure_while_loading_is_passed_on_and_not_tracked_any_more():
    with pytest.raises(KeyError), pipeline.track_loading("a"):
        raise KeyError
    assert pipeline.list_overdue() == []


_STALLED = """
import time
from bt_jax.data import pipeline
pipeline.SLOW_SECONDS = 0.2
with pipeline.track_loading("Training/b.png, for step 3"):
    time.sleep(2)
"""


def test_a_record_that_takes_long_is_named_once_while_it_still_loads():
    root = pathlib.Path(pipeline.__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", _STALLED], cwd=root, capture_output=True, text=True, timeout=60, check=True
    )
    (line,) = done.stderr.splitlines()
    assert line.startswith("warning: Training/b.png, for step 3 has been loading for 0 s in process ")
