"""The speed of the input pipeline: that it measures what training reads."""

import dataclasses

import numpy as np
import pytest

from bt_jax.benchmark import input_throughput
from bt_jax.data import pipeline, sources
from bt_jax.data.augment.augment import Augmentation
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
        augmentation=SETTINGS,
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

    class Noted(input_throughput.Views):
        def __call__(self, **options):
            used.append(self.settings)
            return super().__call__(**options)

    monkeypatch.setattr(input_throughput, "Views", Noted)
    settings = dataclasses.replace(SETTINGS, fourier=0.5, jpeg=0.5)
    turns = input_throughput.make_augmentation_turns(images.images, settings)
    assert list(turns) == ["none", "flip", "rotation", "noise", "fourier", "jpeg", "all"]
    for name, turn in turns.items():
        used.clear()
        assert turn() > 0
        assert len(used) == len(images)
        expected = {"none": Augmentation(), "all": settings, "flip": Augmentation(flip=True),
                    "rotation": Augmentation(rotation=0.1), "noise": Augmentation(noise=0.05),
                    "fourier": Augmentation(fourier=0.5), "jpeg": Augmentation(jpeg=0.5)}  # fmt: skip
        assert set(used) == {expected[name]}
    assert np.unique(images.images).size > 2  # there was something to augment
