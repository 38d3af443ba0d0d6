"""The speed of the input pipeline: that it measures what training reads."""

import pytest

from bt_jax.benchmark import input_throughput
from bt_jax.data import pipeline, sources
from bt_jax.data.augment.settings import Augmentation
from bt_jax.data.preprocess import Preprocessing
from bt_jax.distributed import sharding

SETTINGS = Augmentation(flip=True, rotation=0.1, noise=0.05)


@pytest.fixture(scope="module")
def images():
    source = sources.open_phantoms(per_class=(4, 2), seed=0)
    loaded, rate = input_throughput.measure_decoding(
        source, preprocessing=Preprocessing(size=32), max_unreadable=0, warn=pytest.fail
    )
    assert rate > 0
    return loaded


def test_the_training_images_alone_are_read(images):
    assert len(images) == 16
    assert {record.split for record in images.records} == {"Training"}
    assert images.images.shape == (16, 32, 32)


def test_a_turn_takes_its_batches_after_the_waiting_ones(images, monkeypatch):
    given = []
    original = pipeline.load_training_batches

    def counted(*arguments, **options):
        for batch in original(*arguments, **options):
            given.append(batch["image"].shape)
            yield batch

    monkeypatch.setattr(input_throughput.pipeline, "load_training_batches", counted)
    with input_throughput.start_batches(
        images,
        batch=4,
        workers=0,
        threads=1,
        sharding=sharding.get_batch_sharding(sharding.make_mesh()),
    ) as turn:
        assert turn() > 0
        first = len(given)
        assert turn() > 0
    each = input_throughput.BATCHES_PER_TURN + input_throughput.BUFFERED + 2
    assert len(given) - first == each
    assert set(given) == {(4, 32, 32)}


def test_every_operation_that_is_on_is_timed_alone(images, monkeypatch):
    used = []
    original = input_throughput.compute_views

    def noted(pixels, *numbers, seed, settings):
        used.append(settings)
        assert pixels.shape == (32, 32, 32), "as many images as are timed, repeated if there are fewer"
        return original(pixels, *numbers, seed=seed, settings=settings)

    monkeypatch.setattr(input_throughput, "compute_views", noted)
    turns = input_throughput.make_augmentation_turns(images.images, SETTINGS)
    assert list(turns) == ["none", "flip", "rotation", "noise", "all"]
    for name, turn in turns.items():
        used.clear()
        assert turn() > 0
        expected = {"none": Augmentation(), "all": SETTINGS, "flip": Augmentation(flip=True),
                    "rotation": Augmentation(rotation=0.1), "noise": Augmentation(noise=0.05)}  # fmt: skip
        assert used == [expected[name]] * 2
