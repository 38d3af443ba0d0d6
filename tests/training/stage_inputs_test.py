"""What the loop is fed with: features in the order of the images, streams that go on or begin anew between stages."""

import contextlib
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bt_jax.data import pipeline
from bt_jax.data.augment.settings import Augmentation
from bt_jax.data.sampler import Sampler
from bt_jax.distributed import sharding
from bt_jax.models import normalise, registry
from bt_jax.training import optimizer, stages, start, train_state
from bt_jax.training.feature_cache import FeatureCache
from bt_jax.training.stage_inputs import StageInputs, TrainingImages
from bt_jax.training.train_step import TrainStep
from bt_jax.workdir.run_folder import RunRecord

VIEWS = 2
IMAGES = np.random.default_rng(0).integers(0, 256, (35, 32, 32), np.uint8)
VALIDATION = np.random.default_rng(2).integers(0, 256, (9, 32, 32), np.uint8)
LABELS = np.random.default_rng(1).integers(0, 4, 35).astype(np.int32)
ORDER = Sampler(records=35, batch_size=8, seed=5)  # four steps an epoch
SETTINGS = Augmentation(flip=True, rotation=0.1)


@functools.cache
def network():
    made, params, batch_stats = registry.create("efficientnet_nano", classes=4, hidden=(8,), dropout_rate=0.5, seed=1)
    forgetful = registry.create("efficientnet_nano", classes=4, hidden=(8,), momentum=0.0, seed=1)[0]
    return made, params, start.calibrate_statistics(
        forgetful, params, batch_stats, images=IMAGES, normalisation=normalise.LITE
    )  # fmt: skip


NAMES = registry.create_abstract("efficientnet_nano", classes=4)[0].segment_names
HEAD = len(NAMES) - 1
PLAN = stages.make_plan(
    NAMES, count=3, head_epochs=3.0, epochs=1.0, head_learning_rate=1e-3, learning_rate=1e-3, final_learning_rate=1e-3,
    lowest_segment="top", programs=1, steps_per_epoch=ORDER.steps_per_epoch,
)  # fmt: skip


@functools.cache
def transform():
    return optimizer.make_optimizer(NAMES, name="adamw", weight_decay=0.1, b1=0.9, b2=0.999, clip_norm=1.0)


def fresh_state():
    copied = jax.tree.map(jnp.copy, network()[1:])
    state = train_state.create_state(*copied, transform(), averaging=True)
    return jax.device_put(state, sharding.get_replicated_sharding(sharding.make_mesh()))


@functools.cache
def step_of(program_segment, fed):
    """The compiled step of a program on batches as this one. The jitted one would compile a second time for its own
    state."""
    step = TrainStep(
        network=network()[0], optimizer=transform(), mesh=sharding.make_mesh(), normalisation=normalise.LITE,
        label_smoothing=0.1, average_decay=0.9,
        dtype=jnp.dtype("float32"), augmentation=SETTINGS,
    )  # fmt: skip
    batch = {name: jax.ShapeDtypeStruct(shape, dtype) for name, shape, dtype in fed}
    return step.lower(program_segment, jax.eval_shape(fresh_state), batch).compile()


def run_step(program_segment, state, batch, *arguments):
    described = tuple(sorted((name, leaf.shape, leaf.dtype) for name, leaf in batch.items()))
    return step_of(program_segment, described)(state, batch, *arguments)


def open_images(*, start_step):
    return pipeline.load_training_batches(
        IMAGES, LABELS, sampler=ORDER, views=VIEWS, start_step=start_step,
        stop_step=PLAN[-1].last_step,
    )  # fmt: skip


def make_inputs(folder, *, lowest_segment="", weights=None):
    cache = FeatureCache(
        network=network()[0], normalisation=normalise.LITE, dtype=jnp.dtype("float32"), mesh=sharding.make_mesh(),
        images=IMAGES, augmentation=SETTINGS, seed=ORDER.seed, views=VIEWS, limit=10**9,
        folder=folder / "features",
    )  # fmt: skip
    return StageInputs(
        images=TrainingImages(images=IMAGES, labels=LABELS, sampler=ORDER, views=VIEWS, weights=weights),
        validation_images=VALIDATION,
        cache=cache,
        cuts=cache.choose_cuts(
            PLAN, *network()[1:], lowest_segment=lowest_segment, steps_per_epoch=ORDER.steps_per_epoch
        ),
        mesh=sharding.make_mesh(),
        steps=PLAN[-1].last_step,
        record=RunRecord.open(folder),
    )


@pytest.mark.parametrize(("stage", "lowest_segment"), [(0, ""), (1, "top")])
@pytest.mark.slow
def test_training_on_features_is_training_on_the_images(tmp_path, stage, lowest_segment):
    """The same steps through the whole network and from the features: weights, statistics, moments and averages.

    Through an epoch's edge, with dropout and class weights.
    """
    stage = PLAN[stage]
    first, stop = (2, 6) if stage is PLAN[0] else (stage.first_step, stage.first_step + 3)
    fed = make_inputs(tmp_path, lowest_segment=lowest_segment)
    state, reference = fresh_state(), fresh_state()
    assert fed.open(stage, state, start=first, stop=stop, interrupted=lambda: False)
    images = open_images(start_step=first)
    with contextlib.closing(fed), contextlib.closing(images):
        for _ in range(first, stop):
            batch, expected = next(fed), next(images)
            np.testing.assert_array_equal(batch["label"], expected["label"])
            arguments = np.float32(1e-3), np.int32(stage.first_segment), np.int32(ORDER.seed)
            state, metrics = run_step(stage.program_segment, state, batch, *arguments)
            reference, reference_metrics = run_step(stage.program_segment, reference, expected, *arguments)
            for name, value in reference_metrics.items():
                assert float(metrics[name]) == pytest.approx(float(value), rel=1e-3), name
        with pytest.raises(StopIteration):
            next(fed)
    for (path, a), b in zip(jax.tree_util.tree_leaves_with_path(state), jax.tree.leaves(reference), strict=True):
        # Adam divides by the length of the gradient: where that is next to nothing, rounding shows.
        np.testing.assert_allclose(a, b, rtol=2e-2, atol=1e-4, err_msg=jax.tree_util.keystr(path))
    for name in NAMES[: stage.program_segment]:
        for a, b in zip(jax.tree.leaves((state.get_params()[name], state.batch_stats[name])),
                        jax.tree.leaves((network()[1][name], network()[2][name])), strict=True):  # fmt: skip
            np.testing.assert_array_equal(a, b)


@pytest.mark.slow
def test_weights_come_with_features_too(tmp_path):
    weights = np.linspace(0.5, 2, len(LABELS), dtype=np.float32)
    with contextlib.closing(make_inputs(tmp_path, weights=weights)) as fed:
        assert fed.open(PLAN[0], fresh_state(), start=1, stop=3, interrupted=lambda: False)
        for step in (1, 2):
            records = [ORDER(position).record for position in range(step * 8, step * 8 + 8)]
            np.testing.assert_array_equal(next(fed)["weight"], weights[records])


@pytest.mark.slow
def test_streams_between_stages(tmp_path, monkeypatch):
    """Images are opened where the features end, and go on through the stages that take them."""
    opened = []
    open_batches = TrainingImages.open_batches

    def noted(self, *, start_step, stop_step):
        opened.append((start_step, stop_step))
        return open_batches(self, start_step=start_step, stop_step=stop_step)

    monkeypatch.setattr(TrainingImages, "open_batches", noted)
    inputs = make_inputs(tmp_path)
    never, state = (lambda: False), fresh_state()
    with contextlib.closing(inputs):
        assert inputs.open(PLAN[0], state, start=0, stop=12, interrupted=never)
        assert opened == [] and next(inputs)["features"].shape[0] == 8
        assert inputs.open(PLAN[1], state, start=5, stop=9, interrupted=never)  # stopped early
        expected = open_images(start_step=5)
        with contextlib.closing(expected):
            for _ in range(4):
                np.testing.assert_array_equal(next(inputs)["image"], next(expected)["image"])
            assert inputs.open(PLAN[2], state, start=9, stop=13, interrupted=never)
            np.testing.assert_array_equal(next(inputs)["image"], next(expected)["image"])
        assert opened == [(5, PLAN[-1].last_step)]


def test_batches_are_as_described(tmp_path):
    """What the step is compiled for is what the stage gets: features or images, with weights where images have them."""
    weights = np.ones(len(LABELS), np.float32)
    with contextlib.closing(make_inputs(tmp_path, weights=weights)) as inputs:
        for stage, names in ((PLAN[0], {"features"}), (PLAN[1], {"image", "view", "record"})):
            described = inputs.describe_batch(stage)
            assert set(described) == names | {"label", "weight"}
            assert inputs.open(stage, fresh_state(), start=0, stop=1, interrupted=lambda: False)
            batch = next(inputs)
            assert {key: (leaf.shape, leaf.dtype) for key, leaf in batch.items()} == {
                key: (leaf.shape, leaf.dtype) for key, leaf in described.items()
            }
    assert set(make_inputs(tmp_path).describe_batch(PLAN[1])) == {"image", "view", "record", "label"}


def test_validation_starts_where_training_does(tmp_path):
    inputs = make_inputs(tmp_path)
    segment, features = inputs.get_validation_inputs(PLAN[0], fresh_state())
    assert (segment, len(features)) == ("head", len(VALIDATION))
    assert inputs.get_validation_inputs(PLAN[0], fresh_state())[1] is features
    segment, images = inputs.get_validation_inputs(PLAN[1], fresh_state())
    assert segment is None and images is VALIDATION


def test_only_the_views_of_the_epochs_to_come(tmp_path, capsys):
    with contextlib.closing(make_inputs(tmp_path)) as fed:
        assert fed.open(PLAN[0], fresh_state(), start=5, stop=8, interrupted=lambda: False)
        assert "1 view of 35 images" in capsys.readouterr().out
        assert not fed.open(PLAN[0], fresh_state(), start=5, stop=9, interrupted=lambda: True)
        assert fed.open(PLAN[0], fresh_state(), start=5, stop=9, interrupted=lambda: False)
        assert "2 views of 35 images" in capsys.readouterr().out
