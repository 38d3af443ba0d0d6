from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bt_jax.ops import pointwise


def values_and_gradients(function: Any, inputs: list[np.ndarray]) -> list[np.ndarray]:
    """The output, and the gradients of its product with fixed random numbers, in float64."""
    with jax.enable_x64(True):
        outputs, pull_back = jax.vjp(jax.jit(function), *(jnp.asarray(array) for array in inputs))
        upstream = np.random.default_rng(9).normal(size=outputs.shape)
        arrays = [np.asarray(array) for array in (outputs, *pull_back(jnp.asarray(upstream)))]
    assert all(array.dtype == np.float64 for array in arrays)
    return arrays


def assert_equal(ours: list[np.ndarray], theirs: list[np.ndarray]) -> None:
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-12 * np.abs(other).max())


@pytest.mark.parametrize("shape", [(7, 3), (2, 3, 4, 3)])
def test_pointwise_is_the_matrix_product(shape: tuple[int, ...]) -> None:
    generator = np.random.default_rng(0)
    inputs = [generator.normal(size=shape), generator.normal(size=(3, 5))]
    assert_equal(
        values_and_gradients(pointwise.pointwise, inputs), values_and_gradients(lambda x, kernel: x @ kernel, inputs)
    )


@pytest.mark.parametrize("gated", [pointwise.gated_pointwise, pointwise.gated_pointwise_on_tpu])
@pytest.mark.parametrize("side", [3, 31])
def test_gated_pointwise_equals_gating_first_on_both_sides_of_the_threshold(gated: Any, side: int) -> None:
    assert (side * side >= pointwise.PIXELS_PER_PRODUCT) == (side == 31)
    generator = np.random.default_rng(0)
    inputs = [generator.normal(size=(2, side, side, 3)), generator.normal(size=(2, 3)), generator.normal(size=(3, 4))]
    ours = values_and_gradients(gated, inputs)
    theirs = values_and_gradients(lambda x, gate, kernel: (x * gate[:, None, None, :]) @ kernel, inputs)
    assert_equal(ours, theirs)
