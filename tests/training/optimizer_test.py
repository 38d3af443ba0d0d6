"""The optimiser: what decays, which parameters it knows, and that a frozen segment's state does not move."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bt_jax.common.errors import UsageError
from bt_jax.training import optimizer

NAMES = ("dense_1", "head")
PARAMS = {name: {"kernel": jnp.full((2, 3), 2.0), "bias": jnp.ones(3)} for name in NAMES}


def transform(**changes):
    settings = {"name": "adamw", "weight_decay": 0.1, "b1": 0.9, "b2": 0.999, "clip_norm": 0.0}
    return optimizer.make_optimizer(NAMES, **(settings | changes))


def test_a_parameter_outside_of_the_segments_is_named():
    with pytest.raises(ValueError, match=r"tail.*kernel"):
        transform().init({**PARAMS, "tail": {"kernel": jnp.zeros(3)}})


@pytest.mark.parametrize(("name", "decay"), [("adamw", 0.1), ("adam", 0.0)])
def test_kernels_decay_and_nothing_else(name, decay):
    zeros = jax.tree.map(jnp.zeros_like, PARAMS)
    made = transform(name=name)
    updates, _ = made.update(zeros, made.init(PARAMS), PARAMS, trained=dict.fromkeys(NAMES, True))
    for segment in NAMES:
        np.testing.assert_allclose(updates[segment]["kernel"], -decay * PARAMS[segment]["kernel"], rtol=1e-6)
        np.testing.assert_array_equal(updates[segment]["bias"], np.zeros(3))


@pytest.mark.parametrize("frozen", [False, jnp.array(False)])
def test_a_frozen_segment_does_not_move_and_wakes_up_afresh(frozen):
    """Known before compilation or not: no update, the state stays, and the first step after is as long as the rate."""
    made, ones = transform(weight_decay=0.0), jax.tree.map(jnp.ones_like, PARAMS)
    state = made.init(PARAMS)
    for _ in range(5):
        updates, moved = made.update(ones, state, PARAMS, trained={"dense_1": frozen, "head": True})
        np.testing.assert_array_equal(updates["dense_1"]["kernel"], np.zeros((2, 3)))
        moments = [found[0].inner_states["dense_1"].inner_state for found in (state, moved)]
        for before, after in zip(*map(jax.tree.leaves, moments), strict=True):
            np.testing.assert_array_equal(before, after)
        state = moved
    updates, _ = made.update(ones, state, PARAMS, trained=dict.fromkeys(NAMES, True))
    np.testing.assert_allclose(updates["dense_1"]["kernel"], np.full((2, 3), -1.0), rtol=1e-5)


def test_wrong_names():
    with pytest.raises(UsageError, match=r"config\.optimizer\.name is 'sgd': use adam or adamw"):
        transform(name="sgd")
