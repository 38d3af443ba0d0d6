import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from bt_jax.ops import pooling

SHAPES = st.tuples(st.integers(1, 3), st.integers(2, 7), st.integers(2, 7), st.integers(1, 3))


def squares(x: np.ndarray) -> np.ndarray:
    """[B, H, W, C] -> [B, H // 2, W // 2, C, 4]."""
    corners = [x[:, i:, j:][:, : x.shape[1] - 1 : 2, : x.shape[2] - 1 : 2] for i in (0, 1) for j in (0, 1)]
    rows, columns = x.shape[1] // 2, x.shape[2] // 2
    return np.stack([corner[:, :rows, :columns] for corner in corners], axis=-1)


@settings(deadline=None, max_examples=6)
@given(shape=SHAPES, seed=st.integers(0, 1000))
def test_the_largest_of_each_square(shape: tuple[int, ...], seed: int) -> None:
    x = np.random.default_rng(seed).integers(-2, 3, shape).astype(np.float32)
    pooled = np.asarray(jax.jit(pooling.max_pool)(x))
    assert pooled.shape == (shape[0], shape[1] // 2, shape[2] // 2, shape[3])
    np.testing.assert_array_equal(pooled, squares(x).max(-1))


@settings(deadline=None, max_examples=6)
@given(shape=SHAPES, seed=st.integers(0, 1000))
def test_the_gradient_goes_to_the_largest_and_is_shared_where_they_are_several(
    shape: tuple[int, ...], seed: int
) -> None:
    generator = np.random.default_rng(seed)
    x = generator.integers(-1, 2, shape).astype(np.float32)  # with many equal values
    cotangent = generator.normal(size=squares(x).shape[:-1]).astype(np.float32)
    # Compiled as one program: by themselves, the operations are compiled one after the other for each shape.
    gradient = np.asarray(jax.jit(lambda x, dy: jax.vjp(pooling.max_pool, x)[1](dy)[0])(x, cotangent))
    assert gradient.shape == shape
    is_largest = squares(x) == squares(x).max(-1, keepdims=True)
    shared = is_largest * (cotangent / is_largest.sum(-1))[..., None]
    np.testing.assert_allclose(squares(gradient), shared, rtol=1e-6)
    assert not gradient[:, shape[1] // 2 * 2 :].any()
    assert not gradient[:, :, shape[2] // 2 * 2 :].any()


def test_it_is_the_pooling_of_xla_where_no_values_are_equal() -> None:
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 7, 6, 3)), jnp.float32)

    def reference(x: jax.Array) -> jax.Array:
        return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")

    weights = jnp.arange(2 * 3 * 3 * 3, dtype=jnp.float32).reshape(2, 3, 3, 3)
    np.testing.assert_array_equal(pooling.max_pool(x), reference(x))
    ours, theirs = (jax.grad(lambda x, f=f: (f(x) * weights).sum())(x) for f in (pooling.max_pool, reference))
    np.testing.assert_array_equal(ours, theirs)


def test_half_precision_stays() -> None:
    x = jnp.asarray(np.random.default_rng(0).normal(size=(1, 4, 4, 2)), jnp.bfloat16)
    assert pooling.max_pool(x).dtype == jnp.bfloat16
    assert jax.grad(lambda x: pooling.max_pool(x).astype(jnp.float32).sum())(x).dtype == jnp.bfloat16
