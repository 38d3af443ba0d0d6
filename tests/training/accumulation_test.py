"""A batch in parts: the same step where nothing is drawn by part, and which images are together."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bt_jax.distributed import sharding
from bt_jax.models import normalise, registry
from bt_jax.training import accumulation, optimizer, train_state
from bt_jax.training.train_step import TrainStep


def one_step(accumulate: int):
    """State and metrics after a step of a dense network without dropout, on 8 images."""
    network, params, batch_stats = registry.create("mlp", classes=4, size=16, hidden=(8,), dropout_rate=0.0, seed=1)
    transform = optimizer.make_optimizer(
        network.segment_names, name="adam", weight_decay=0.0, b1=0.9, b2=0.999, clip_norm=1.0
    )
    step = TrainStep(
        network=network, optimizer=transform, mesh=sharding.make_mesh(), normalisation=normalise.LITE,
        label_smoothing=0.1, average_decay=0.0,
        dtype=jnp.dtype("float32"), accumulate=accumulate,
    )  # fmt: skip
    generator = np.random.default_rng(0)
    batch = {
        "image": generator.random((8, 16, 16), np.float32),
        "label": generator.integers(0, 4, 8).astype(np.int32),
        "weight": generator.random(8, np.float32),
    }
    state = train_state.create_state(params, batch_stats, transform, averaging=False)
    return step.jit(0)(state, batch, np.float32(1e-3), np.int32(0), np.int32(0))


def test_parts_are_one_step_of_the_whole_batch():
    (whole, expected), (parts, found) = one_step(1), one_step(4)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert float(found[name]) == pytest.approx(float(value), rel=1e-5), name
    assert int(parts.step) == 1
    # Before Adam divides by their length: the gradients themselves.
    for a, b in zip(jax.tree.leaves(parts.opt_state), jax.tree.leaves(whole.opt_state), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-8)


def test_a_part_has_every_so_manieth_row_and_statistics_go_through_all():
    rows = {"x": jnp.arange(6.0)}
    seen = []

    def compute_gradients(params, batch_stats, batch, key, first_segment):
        jax.debug.callback(lambda x, number: seen.append((x.tolist(), int(number))), batch["x"], batch_stats["n"])
        return (batch["x"].mean(), ({"n": batch_stats["n"] + 1}, jnp.float32(1))), {"w": batch["x"].sum()}

    (loss, (batch_stats, accuracy)), gradients = accumulation.accumulate(
        compute_gradients, 2, {"w": jnp.zeros(())}, {"n": jnp.int32(5)}, rows, jax.random.key(0), jnp.int32(0)
    )
    jax.effects_barrier()
    assert seen == [([0.0, 2.0, 4.0], 5), ([1.0, 3.0, 5.0], 6)]
    assert (float(loss), int(batch_stats["n"]), float(accuracy), float(gradients["w"])) == (2.5, 7, 1.0, 7.5)
