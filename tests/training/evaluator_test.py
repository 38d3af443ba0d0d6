"""Scores between epochs: the same from features as from the images, and the features computed once."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bt_jax.common.errors import UsageError
from bt_jax.data.sampler import Sampler
from bt_jax.distributed import sharding
from bt_jax.metrics import classification
from bt_jax.metrics.calibration import softmax
from bt_jax.models import normalise, registry
from bt_jax.training import feature_cache, optimizer, stages, start, train_state
from bt_jax.training.evaluator import Evaluator
from bt_jax.training.sharded_forward import ShardedForward
from bt_jax.training.stage_inputs import StageInputs, TrainingImages
from bt_jax.workdir.run_folder import RunRecord

CLASSES = ("a", "b", "c", "d")
IMAGES = np.random.default_rng(0).integers(0, 256, (21, 32, 32), np.uint8)
LABELS = (np.arange(21) % 4).astype(np.int32)
FLOAT32 = jnp.dtype("float32")


@functools.cache
def network():
    made, params, batch_stats = registry.create("efficientnet_nano", classes=4, hidden=(8,), momentum=0.0, seed=1)
    return made, params, start.calibrate_statistics(
        made, params, batch_stats, images=IMAGES, normalisation=normalise.LITE
    )  # fmt: skip


NAMES = registry.create_abstract("efficientnet_nano", classes=4)[0].segment_names
PLAN = stages.make_plan(
    NAMES, count=3, head_epochs=2.0, epochs=2.0, head_learning_rate=1e-3, learning_rate=1e-3, final_learning_rate=1e-3,
    lowest_segment="block_02", programs=2, steps_per_epoch=4,
)  # fmt: skip


def state_after(change=1.0):
    """As after training the head alone."""
    _, params, batch_stats = network()
    params = {**params, "head": jax.tree.map(lambda leaf: leaf * change, params["head"])}
    transform = optimizer.make_optimizer(NAMES, name="adamw", weight_decay=0.1, b1=0.9, b2=0.999, clip_norm=1.0)
    return train_state.create_state(params, batch_stats, transform, averaging=False)


def make_evaluator(folder, *, lowest_segment="block_02", cached=True):
    made, params, batch_stats = network()
    images = TrainingImages(
        images=np.zeros((5, 32, 32), np.uint8), labels=np.zeros(5, np.int32),
        sampler=Sampler(records=5, batch_size=1, seed=1), views=0,
    )  # fmt: skip
    cache = feature_cache.FeatureCache(
        network=made, normalisation=normalise.LITE, dtype=FLOAT32, mesh=sharding.make_mesh(), images=images.images,
        augmentation=None, seed=1, views=3, limit=10**9, folder=folder / "features",
    )  # fmt: skip
    cuts = cache.choose_cuts(PLAN, params, batch_stats, lowest_segment=lowest_segment, steps_per_epoch=4)
    inputs = StageInputs(
        images=images, validation_images=IMAGES, cache=cache, cuts=cuts if cached else {}, mesh=sharding.make_mesh(),
        steps=PLAN[-1].last_step, record=RunRecord.open(folder),
    )  # fmt: skip
    forward = ShardedForward(made, normalisation=normalise.LITE, dtype=FLOAT32, mesh=sharding.make_mesh(), batch_size=8)
    return Evaluator(LABELS, class_names=CLASSES, forward=forward, inputs=inputs)


@pytest.mark.slow
@pytest.mark.parametrize("lowest_segment", ["", "block_02", None])
def test_scores_are_those_of_the_whole_network(tmp_path, lowest_segment):
    """From the head's features, from a lower cut's, and where no stage has features at all."""
    evaluator = make_evaluator(tmp_path, lowest_segment=lowest_segment or "", cached=lowest_segment is not None)
    stage = PLAN[0] if lowest_segment == "" else PLAN[1]
    state = state_after(change=2.0)
    made = network()[0]
    x = normalise.LITE(jnp.asarray(IMAGES))
    logits, _ = jax.jit(made.apply)(state.get_params(), state.batch_stats, x)
    expected = classification.score(
        split="validation", labels=LABELS, probabilities=softmax(np.asarray(logits)), class_names=CLASSES
    )
    for name, value in evaluator.score(stage, state).items():
        assert value == pytest.approx(expected[name.removeprefix("val/")], rel=1e-4), name


@pytest.mark.slow
def test_what_is_frozen_is_computed_once(tmp_path, capsys):
    evaluator = make_evaluator(tmp_path)
    first = evaluator.score(PLAN[0], state_after())
    assert "features before head: 1 view of 21 images" in capsys.readouterr().out
    second = evaluator.score(PLAN[0], state_after(change=3.0))
    assert not capsys.readouterr().out, "the features are still there"
    assert abs(first["val/loss"] - second["val/loss"]) > 1e-3, "but the head is another"
    evaluator.score(PLAN[1], state_after())
    assert capsys.readouterr().out.strip().endswith(", found"), "made for those of the head"
    again = make_evaluator(tmp_path)
    assert again.score(PLAN[0], state_after()) == first
    assert capsys.readouterr().out.strip().endswith(", found")


def test_outputs_that_are_not_finite(tmp_path):
    state = dataclasses.replace(state_after(change=np.nan), step=jnp.int32(17))
    with pytest.raises(UsageError, match=r"not finite after step 17: lower config\.stages\.learning_rate"):
        make_evaluator(tmp_path).score(PLAN[0], state)
