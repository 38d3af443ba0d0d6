import re

import jax
import jax.export
import jax.numpy as jnp
import numpy as np

from bt_jax.ops.platform import materialise, select_form, trace_for
from tests import kernels


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


def double(x: jax.Array) -> jax.Array:
    forms = {"cpu": lambda x: x + x, "tpu": lambda x: x * 2}
    doubled: jax.Array = select_form(x, default=lambda x: x / 0.5, **forms)
    return doubled


def test_a_form_for_each_platform_in_one_program() -> None:
    text = jax.export.export(jax.jit(double), platforms=("cpu", "tpu", "cuda"))(jnp.ones(2)).mlir_module()
    assert all(f"stablehlo.{operation} " in text for operation in ("add", "multiply", "divide"))


def test_only_the_form_of_a_known_platform_is_traced() -> None:
    for platform, operation in {"cpu": "add", "tpu": "mul", "gpu": "div"}.items():

        def run(x: jax.Array, platform: str = platform) -> jax.Array:
            with trace_for(platform):
                return double(x)

        assert [equation.primitive.name for equation in jax.make_jaxpr(run)(jnp.ones(2)).eqns] == [operation]
    assert "platform_index" in str(jax.make_jaxpr(double)(jnp.ones(2)))  # once outside, all are again


def test_a_known_platform_gives_the_same_program() -> None:
    def run(x: jax.Array, known: bool) -> jax.Array:
        def loss(x: jax.Array) -> jax.Array:
            return chain(x, end=True).sum()

        if not known:
            return jax.grad(loss)(x)
        with trace_for("cpu"):
            return jax.grad(loss)(x)

    texts = [
        jax.jit(lambda x, known=known: run(x, known)).lower(jnp.ones((64, 8))).compile() for known in (True, False)
    ]
    found = [kernels.list_kernels(compiled.as_text()) for compiled in texts]
    assert found[0] == found[1] != []
