import re

import jax
import jax.export
import jax.numpy as jnp
import numpy as np

from bt_jax.ops.platform import materialise


def chain(x: jax.Array, *, end: bool) -> jax.Array:
    y = jnp.exp(x * 2 + 1)
    if end:
        y = materialise(y)
    return y[1:] * 3 + y[:-1]


def test_values_and_gradients_stay() -> None:
    x = jnp.linspace(0, 1, 12).reshape(4, 3)
    tree = {"a": x, "b": (x + 1, jnp.arange(3))}
    jax.tree.map(np.testing.assert_array_equal, jax.jit(materialise)(tree), tree)
    gradients = [jax.grad(lambda x, end=end: chain(x, end=end).sum())(x) for end in (True, False)]
    np.testing.assert_allclose(*gradients, rtol=1e-6)


def test_on_a_cpu_the_chain_ends_there() -> None:
    """Without it the exponential is computed inside of what reads it, with it in a kernel of its own."""
    x = jnp.ones((1024, 64))
    for end in (True, False):
        text = jax.jit(lambda x, end=end: chain(x, end=end)).lower(x).compile().as_text()
        # The computation that computes the exponential also slices, unless the chain was ended.
        bodies = [body for body in re.split(r"\n\}\n", text) if " exponential(" in body]
        assert len(bodies) == 1
        assert (" slice(" in bodies[0].split("ENTRY")[0]) != end


def test_accelerators_see_nothing_of_it() -> None:
    text = jax.export.export(jax.jit(lambda x: chain(x, end=True)), platforms=("tpu",))(jnp.ones((8, 2))).mlir_module()
    assert "inlineable" not in text
