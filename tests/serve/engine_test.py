"""The model behind the server: the same answers whatever they are computed with."""

import concurrent.futures
import dataclasses
import time

import numpy as np
import pytest

from bt_jax.data.io.slices import Slice
from bt_jax.inference.predictor import Predictor
from bt_jax.serve.engine import Engine
from tests import hostile_inputs


def later() -> float:
    return time.monotonic() + 30


def test_many_at_once_have_the_answers_of_each_alone(engine, predictor):
    slices = [predictor.prepare(Slice(np.roll(hostile_inputs.scan(), 3 * k, axis=1))) for k in range(24)]
    before = engine.predictions.pieces
    with concurrent.futures.ThreadPoolExecutor(12) as pool:
        found = list(pool.map(lambda one: engine.predict([one], deadline=later())[0], slices))
    for one, of_engine in zip(slices, found, strict=True):
        (alone,) = predictor.predict([one])
        np.testing.assert_allclose(
            list(of_engine.probabilities.values()), list(alone.probabilities.values()), atol=1e-6
        )
    assert engine.predictions.pieces - before == 24


def test_steps_have_the_sizes_of_compiled_programs(predictor):
    engine = Engine(predictor, batch_size=6)
    try:
        assert engine._sizes == [1, 2, 4, 6]
        assert not engine.warm
        engine.start()
        assert 1 in engine._ready
        end = later()
        while not engine.warm:
            assert time.monotonic() < end
            time.sleep(0.01)
        assert engine._ready == [1, 2, 4, 6]
    finally:
        engine.close()


@pytest.mark.parametrize("size", [1, 2, 3, 16, 31])
def test_there_is_a_size_for_one_and_for_a_whole_step(predictor, size):
    engine = Engine(predictor, batch_size=size)
    try:
        assert engine._sizes[0] == 1 and engine._sizes[-1] == size and len(set(engine._sizes)) == len(engine._sizes)
    finally:
        engine.close()


def test_heat_maps(engine):
    found = engine.explain(hostile_inputs.scan(), label="no_tumor", method="gradcam", deadline=later())
    assert (found.heat.shape, found.label, found.method) == ((48, 64), "no_tumor", "integrated_gradients")


def test_programs_are_served_without_heat_maps(predictor):
    (model,) = predictor.models
    engine = Engine(Predictor([dataclasses.replace(model, networks=())]), batch_size=2)
    try:
        assert not engine.predictor.methods
    finally:
        engine.close()
