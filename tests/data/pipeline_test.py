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
from bt_jax.data.augment import augment
from bt_jax.data.augment.augment import Augmentation
from bt_jax.data.augment.views import Views
from bt_jax.data.sampler import Sampler

RECORDS, SIZE, BATCH = 22, 24, 6
STEPS_PER_EPOCH = RECORDS // BATCH
IMAGES = np.random.default_rng(0).integers(0, 256, (RECORDS, SIZE, SIZE), dtype=np.uint8)
LABELS = np.arange(RECORDS, dtype=np.int32)  # the record's number, to recognise it by
SETTINGS = Augmentation(flip=True, rotation=0.1, zoom=0.2, noise=0.05)


@pytest.fixture(autouse=True, scope="module")
def parsed_flags() -> None:
    """Grain reads flags of its own, which a command has parsed."""
    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()


def batches(start: int, stop: int, *, seed: int = 5, **options: Any) -> list[pipeline.Batch]:
    options = {"settings": SETTINGS, "views": 0} | options
    sampler = Sampler(records=RECORDS, batch_size=BATCH, seed=seed)
    return list(
        pipeline.load_training_batches(IMAGES, LABELS, sampler=sampler, start_step=start, stop_step=stop, **options)
    )


def assert_same(a: list[pipeline.Batch], b: list[pipeline.Batch]) -> None:
    assert len(a) == len(b)
    for left, right in zip(a, b, strict=True):
        assert left.keys() == right.keys() == {"image", "label"}
        for key in left:
            np.testing.assert_array_equal(left[key], right[key])


def by_record(found: list[pipeline.Batch]) -> dict[int, list[np.ndarray]]:
    views: dict[int, list[np.ndarray]] = {}
    for batch in found:
        for label, image in zip(batch["label"].tolist(), batch["image"], strict=True):
            views.setdefault(label, []).append(image)
    return views


def test_batches_are_what_order_and_augmentation_say():
    sampler = Sampler(records=RECORDS, batch_size=BATCH, seed=5)
    found = batches(2, 7)
    assert len(found) == 5
    for step, batch in enumerate(found, 2):
        assert batch["image"].shape == (BATCH, SIZE, SIZE) and batch["image"].dtype == np.float32
        assert batch["label"].shape == (BATCH,) and batch["label"].dtype == np.int32
        assert batch["image"].min() >= 0 and batch["image"].max() <= 1
        for row in range(BATCH):
            example = sampler(step * BATCH + row)
            assert batch["label"][row] == example.record
            generator = augment.make_generator(seed=5, view=example.epoch, record=example.record)
            np.testing.assert_array_equal(
                batch["image"][row], augment.augment(IMAGES[example.record], generator=generator, settings=SETTINGS)
            )


def test_without_augmentation_the_pixels_arrive_as_they_are():
    for label, views in by_record(batches(0, STEPS_PER_EPOCH, settings=Augmentation())).items():
        np.testing.assert_allclose(views[0] * 255, IMAGES[label], atol=1e-4)


STYLED = Augmentation(rotation=0.1, fourier=1.0, histogram=1.0, jpeg=1.0, curve=1.0)
KINDS = np.arange(RECORDS) % 3


def test_partners_come_with_the_views_whatever_loads_them():
    found = batches(2, 9, settings=STYLED, kinds=KINDS)
    assert_same(found, batches(2, 9, settings=STYLED, kinds=KINDS, threads=0))
    assert_same(found[3:], batches(5, 9, settings=STYLED, kinds=KINDS))
    views = Views(images=IMAGES, settings=STYLED, seed=5, kinds=KINDS)
    example = Sampler(records=RECORDS, batch_size=BATCH, seed=5)(4 * BATCH + 1)
    np.testing.assert_array_equal(found[2]["image"][1], views(view=example.epoch, record=example.record))


def test_weights_come_with_their_images():
    weights = np.linspace(0.5, 2, RECORDS, dtype=np.float32)
    for batch in batches(0, 4, weights=weights):
        assert batch.keys() == {"image", "label", "weight"} and batch["weight"].dtype == np.float32
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
    for label, views in by_record(batches(0, epochs * STEPS_PER_EPOCH, views=2)).items():
        assert len({view.tobytes() for view in views}) <= 2, label
    several = by_record(batches(0, epochs * STEPS_PER_EPOCH, views=0))
    assert sum(len(views) for views in several.values()) == epochs * STEPS_PER_EPOCH * BATCH
    for label, views in several.items():
        assert len({view.tobytes() for view in views}) == len(views), label


def test_a_view_depends_on_seed_view_and_record_alone():
    first, again = by_record(batches(0, STEPS_PER_EPOCH, views=1)), by_record(batches(30, 33, views=1))
    shared = first.keys() & again.keys()
    assert len(shared) > RECORDS // 2
    for label in shared:
        np.testing.assert_array_equal(first[label][0], again[label][0])
    other = by_record(batches(0, STEPS_PER_EPOCH, views=1, seed=6))
    assert all((first[label][0] != other[label][0]).any() for label in first.keys() & other.keys())


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
from bt_jax.data.augment.augment import Augmentation
from bt_jax.data.sampler import Sampler

if __name__ == "__main__":
    flags.FLAGS(sys.argv[:1])
    content = np.load(sys.argv[1])
    found = list(pipeline.load_training_batches(
        content["images"], content["labels"], sampler=Sampler(records=22, batch_size=6, seed=5),
        settings=Augmentation(flip=True, rotation=0.1, zoom=0.2, noise=0.05), views=0, start_step=2, stop_step=9,
        workers=int(sys.argv[3]), threads=1,
    ))
    np.savez(sys.argv[2], **{key: np.stack([batch[key] for batch in found]) for key in found[0]})
"""


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
        found = [{key: content[key][i] for key in ("image", "label")} for i in range(len(content["label"]))]
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


def test_leaving_early_stops_the_loading(monkeypatch):
    loaded = 0
    original = augment.augment

    def counted(*args: Any, **options: Any) -> np.ndarray:
        nonlocal loaded
        loaded += 1
        return original(*args, **options)

    monkeypatch.setattr(pipeline.augment, "augment", counted)
    stream = pipeline.load_training_batches(
        IMAGES, LABELS, sampler=Sampler(records=RECORDS, batch_size=BATCH, seed=5), settings=SETTINGS, views=0,
        start_step=0, stop_step=10_000,
    )  # fmt: skip
    next(stream)
    stream.close()
    time.sleep(0.1)
    after = loaded
    time.sleep(0.1)
    assert BATCH <= loaded == after < 20 * BATCH


class BrokenError(RuntimeError):
    """What an augmentation may raise."""


@pytest.mark.parametrize("threads", [0, 2])
def test_an_image_that_cannot_be_augmented_is_named(monkeypatch, threads):
    original = Views.__call__

    def failing(self, *, view, record):
        if record == 7:
            raise BrokenError("too dark")
        return original(self, view=view, record=record)

    monkeypatch.setattr(Views, "__call__", failing)
    names = [f"Training/image_{record}.png" for record in range(RECORDS)]
    with pytest.raises(UsageError, match=r"^cannot augment Training/image_7\.png, view 0: BrokenError: too dark$"):
        batches(0, 3, names=names, threads=threads)
    with pytest.raises(UsageError, match=r"^cannot augment image 7, view 0"):
        batches(0, 3, threads=threads)


# The worker process imports the module anew, so the failure is in what it loads: an image too small for its labels.
FAILING_WORKER = WORKERS.replace('content["images"], content["labels"]', 'content["images"], content["labels"][:15]')


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
