"""Steps that runs of one process share: equal settings and shapes are compiled once, all others by themselves."""

import dataclasses

import jax
import numpy as np
import pytest

from bt_jax.distributed import sharding
from bt_jax.models import normalise, registry
from bt_jax.training import optimizer, program_cache, train_state
from bt_jax.training.stages import Stage
from bt_jax.training.train_step import TrainStep

STAGE = Stage(number=1, first_segment=0, program_segment=0, learning_rate=1e-3, steps=4, first_step=0)
SETTINGS = {"name": "adamw", "weight_decay": 0.1, "b1": 0.9, "b2": 0.999, "clip_norm": 1.0}


class Step(TrainStep):
    """Counts instead of compiling."""

    def compile(self, stage, state, batch):
        return object()


def make_step(**changes):
    network, params, batch_stats = registry.create_abstract("mlp", classes=2, size=8)
    transform = optimizer.make_optimizer(network.segment_names, **SETTINGS)
    step = Step(
        network=network, optimizer=transform, mesh=sharding.make_mesh(), normalisation=normalise.LITE,
        label_smoothing=0.1, average_decay=0.9, dtype=np.dtype("float32"),
    )  # fmt: skip
    state = jax.eval_shape(
        lambda *trees: train_state.create_state(*trees, transform, averaging=True), params, batch_stats
    )
    return dataclasses.replace(step, **changes), state


def batch(size=4):
    return {"image": jax.ShapeDtypeStruct((size, 8, 8), np.uint8), "label": jax.ShapeDtypeStruct((size,), np.int32)}


def compiled(*, stage=STAGE, size=4, **changes):
    step, state = make_step(**changes)
    return program_cache.compile_step(step, stage, state, batch(size))


def test_runs_that_train_alike_share_a_step():
    with program_cache.share_programs():
        assert compiled() is compiled()


@pytest.mark.parametrize(
    "difference",
    [
        {"average_decay": 0.8},
        {"size": 8},
        {"stage": dataclasses.replace(STAGE, first_segment=1, program_segment=1)},
        {"image_size": 4},
        {"network": registry.create_abstract("mlp", classes=2, size=8, dropout_rate=0.7)[0]},
        {"optimizer": optimizer.make_optimizer(("head",), **(SETTINGS | {"b1": 0.8}))},
    ],
    ids=lambda difference: next(iter(difference)),
)
def test_what_differs_has_a_step_of_its_own(difference):
    with program_cache.share_programs():
        assert compiled(**difference) is not compiled()
        assert compiled(**difference) is compiled(**difference)


def test_a_block_in_a_block_shares_with_it_and_the_oldest_programs_make_room():
    with program_cache.share_programs():
        first, second = compiled(), compiled(size=8)
        with program_cache.share_programs():
            assert compiled() is first
        assert compiled() is first, "the inner block does not end the outer one"
        for number in range(31):
            compiled(average_decay=number / 100)
        assert compiled() is first, "asked for later than the other one"
        assert compiled(size=8) is not second


def test_nothing_is_kept_outside_a_block():
    assert compiled() is not compiled()
    with program_cache.share_programs():
        first = compiled()
    with program_cache.share_programs():
        assert compiled() is not first
