import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bt_jax.models.efficientnet import relu6
from bt_jax.ops.activation import shift_activation, shift_activation_on_cpu


@pytest.mark.parametrize("activation", [jax.nn.silu, jax.nn.relu, relu6])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_values_and_gradients_are_those_of_the_definition(activation, dtype):
    generator = np.random.default_rng(0)
    x, gradient = (jnp.asarray(generator.normal(0, 4, size=(2, 5, 3, 4)), dtype) for _ in range(2))
    shift = jnp.asarray(generator.normal(size=4), jnp.float32)
    outputs, pull = jax.vjp(lambda x, shift: shift_activation(x, shift, activation=activation), x, shift)
    expected, pull_expected = jax.vjp(lambda x, shift: activation((x + shift).astype(dtype)), x, shift)
    np.testing.assert_array_equal(outputs, expected)
    tolerance = 1e-6 if dtype == "float32" else 0.05
    for mine, theirs in zip(pull(gradient), pull_expected(gradient), strict=True):
        assert mine.dtype == theirs.dtype
        np.testing.assert_allclose(*(np.asarray(a, np.float32) for a in (mine, theirs)), rtol=1e-5, atol=tolerance)


def test_the_backward_pass_keeps_one_map():
    x, shift = jnp.ones((2, 64, 64, 8)), jnp.ones(8)

    def count_kept_maps(function):
        _, pull = jax.vjp(function, x, shift)
        return sum(leaf.size == x.size for leaf in jax.tree.leaves(pull))

    assert count_kept_maps(lambda x, shift: shift_activation_on_cpu(x, shift, jax.nn.silu)) == 1
    assert count_kept_maps(lambda x, shift: jax.nn.silu(x + shift)) > 1, "otherwise the function is superfluous"
