"""The training state: what is kept for predictions, and what for resuming."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bt_jax.training import optimizer, train_state
from bt_jax.training.flat_layout import FlatLayout
from bt_jax.workdir.checkpoint import Checkpoints

PARAMS = {"dense_1": {"kernel": jnp.arange(6.0).reshape(2, 3)}, "head": {"bias": jnp.ones(3)}}


def make_state(*, averaging, factor=1.0):
    transform = optimizer.make_optimizer(tuple(PARAMS), name="adam", weight_decay=0.0, b1=0.9, b2=0.999, clip_norm=0.0)
    params = jax.tree.map(lambda leaf: factor * leaf, PARAMS)
    return train_state.create_state(params, {}, transform, averaging=averaging)


def assert_same(one, other):
    assert jax.tree.structure(one) == jax.tree.structure(other)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("averaging", [True, False])
def test_a_state_divides_for_a_checkpoint_and_joins_again(averaging):
    state = make_state(averaging=averaging)
    assert int(state.step) == 0
    other = make_state(averaging=averaging, factor=2.0)
    assert_same(other.join(state.get_evaluation_weights(), state.get_resuming_state()), state)


def test_averages_are_kept_for_predictions_where_they_are_on():
    with_averages, without = make_state(averaging=True), make_state(averaging=False)
    moved = jax.tree.map(lambda leaf: leaf + 1, PARAMS)
    for state in with_averages, without:
        state.params = state.layout.flatten(moved)
        assert_same(state.get_params(), moved)
    assert_same(with_averages.get_evaluation_weights()["params"], PARAMS)
    assert_same(without.get_evaluation_weights()["params"], moved)


def test_a_state_has_arrays_of_its_own():
    """A step donates them, and must find none of them twice."""
    state = make_state(averaging=True)
    places = [leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves((state, PARAMS))]
    assert len(set(places)) == len(places)


@pytest.mark.parametrize("averaging", [True, False])
def test_a_saved_state_is_restored(tmp_path, averaging):
    saved = make_state(averaging=averaging, factor=3.0)
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(
        7, evaluation=saved.get_evaluation_weights(), training=saved.get_resuming_state(), metadata={}, best_step=None
    )
    assert_same(train_state.restore_state(checkpoints, 7, like=make_state(averaging=averaging)), saved)
    checkpoints.close()


def test_weights_are_laid_out_by_a_program_that_is_compiled_once(monkeypatch):
    """Every evaluation and every checkpoint asks for them."""
    state = make_state(averaging=True)
    traced = []
    original = FlatLayout.unflatten
    monkeypatch.setattr(FlatLayout, "unflatten", lambda self, vectors: (traced.append(1), original(self, vectors))[1])
    train_state._make_unflatten.cache_clear()
    for _ in range(3):
        state.get_evaluation_weights()
    assert len(traced) == 2  # of parameters and of statistics
