import functools
from typing import Any

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bt_jax.models.efficientnet import relu6
from bt_jax.ops import batch_norm
from bt_jax.ops.batch_norm import Norm

EPSILON = 1e-3
ACTIVATIONS = {"silu": jax.nn.silu, "relu6": relu6, "none": lambda x: x}
NAMES = ("x", "scale", "bias", "mean", "variance")


def arguments(shape: tuple[int, ...], channels: int, *, seed: int = 0) -> dict[str, np.ndarray]:
    """Float64 inputs whose channels have means far from zero."""
    generator = np.random.default_rng(seed)
    return {
        "x": generator.normal(size=shape) + generator.normal(scale=3, size=shape[-1]),
        "kernel": generator.normal(size=(shape[-1], channels)),
        "scale": generator.uniform(0.5, 2, channels),
        "bias": generator.normal(size=channels),
        "mean": generator.normal(size=channels),
        "variance": generator.uniform(0.5, 2, channels),
    }


def plain(x: Any, scale: Any, bias: Any, mean: Any, variance: Any, by_batch: bool, activation: Any) -> tuple[Any, ...]:
    """The definition, differentiated by JAX."""
    axes = tuple(range(x.ndim - 1))
    batch_mean, batch_variance = x.mean(axes), x.var(axes)
    if by_batch:
        mean, variance = batch_mean, batch_variance
    return activation((x - mean) / jnp.sqrt(variance + EPSILON) * scale + bias), batch_mean, batch_variance


def values_and_gradients(function: Any, inputs: list[Any]) -> list[np.ndarray]:
    """All outputs, and the gradients of the product of the first with fixed random numbers."""

    @functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
    def run(inputs: list[jax.Array]) -> list[jax.Array]:
        outputs, pull_back, statistics = jax.vjp(
            lambda *a: (lambda y, *s: (y, s))(*function(*a)), *inputs, has_aux=True
        )
        upstream = np.random.default_rng(9).normal(size=outputs.shape)
        return [outputs, *statistics, *pull_back(jnp.asarray(upstream, outputs.dtype))]

    return [np.asarray(array) for array in run([jnp.asarray(array) for array in inputs])]


def assert_close(ours: list[np.ndarray], theirs: list[np.ndarray], *, tolerance: float) -> None:
    for one, other in zip(ours, theirs, strict=True):
        assert one.shape == other.shape
        np.testing.assert_allclose(one, other, rtol=0, atol=tolerance * max(1, np.abs(other).max(initial=0)))


@pytest.mark.parametrize("by_batch", [True, False])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_norm_activation_equals_the_definition(activation: str, by_batch: bool) -> None:
    values = arguments((3, 4, 5, 6), 6)
    with jax.enable_x64(True):
        act, flag = ACTIVATIONS[activation], jnp.asarray(float(by_batch))
        ours = values_and_gradients(
            lambda x, scale, bias: batch_norm.norm_activation(
                x, Norm(scale, bias, values["mean"], values["variance"], flag), epsilon=EPSILON, activation=act
            ),
            [values[name] for name in ("x", "scale", "bias")],
        )
        theirs = values_and_gradients(
            lambda x, scale, bias: plain(x, scale, bias, values["mean"], values["variance"], by_batch, act),
            [values[name] for name in ("x", "scale", "bias")],
        )
    assert_close(ours, theirs, tolerance=1e-11)


@pytest.mark.slow
@settings(max_examples=8, deadline=None)
@given(
    rows=st.integers(2, 12),
    channels_in=st.integers(1, 5),
    channels_out=st.integers(1, 9),
    by_batch=st.booleans(),
    activation=st.sampled_from(sorted(ACTIVATIONS)),
    seed=st.integers(0, 99),
)
def test_pointwise_norm_activation_equals_the_definition(
    rows: int, channels_in: int, channels_out: int, by_batch: bool, activation: str, seed: int
) -> None:
    values = arguments((2, rows, 3, channels_in), channels_out, seed=seed)
    inputs = [values[name] for name in ("x", "kernel", "scale", "bias")]
    running = values["mean"], values["variance"]
    with jax.enable_x64(True):
        act, flag = ACTIVATIONS[activation], jnp.asarray(float(by_batch))
        ours = values_and_gradients(
            lambda x, kernel, scale, bias: batch_norm.pointwise_norm_activation(
                x, kernel, Norm(scale, bias, *running, flag), epsilon=EPSILON, activation=act
            ),
            inputs,
        )
        theirs = values_and_gradients(
            lambda x, kernel, scale, bias: plain(x @ kernel, scale, bias, *running, by_batch, act), inputs
        )
    # relu6 has corners: there a difference in the last bit may decide.
    assert_close(ours, theirs, tolerance=1e-10)


def test_in_float32_the_statistics_of_a_product_survive_a_large_mean() -> None:
    values = {name: np.float32(array) for name, array in arguments((4, 8, 8, 16), 32).items()}
    x = values["x"] + 100
    norm = Norm(*(jnp.asarray(values[name]) for name in NAMES[1:]), jnp.float32(1))
    _, mean, variance = batch_norm.pointwise_norm_activation(
        jnp.asarray(x), jnp.asarray(values["kernel"]), norm, epsilon=EPSILON, activation=relu6
    )
    products = np.float64(x) @ np.float64(values["kernel"])
    np.testing.assert_allclose(mean, products.mean((0, 1, 2)), rtol=1e-4)
    np.testing.assert_allclose(variance, products.var((0, 1, 2)), rtol=1e-3)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_images_keep_their_dtype_and_statistics_are_float32(dtype: Any) -> None:
    values = {name: jnp.asarray(array, jnp.float32) for name, array in arguments((2, 4, 4, 3), 8).items()}
    x, kernel = values["x"].astype(dtype), values["kernel"].astype(dtype)
    norm = Norm(*(values[name] for name in NAMES[1:]), jnp.float32(1))
    style: dict[str, Any] = {"epsilon": EPSILON, "activation": jax.nn.silu}
    outputs, *statistics = batch_norm.pointwise_norm_activation(x, kernel, norm, **style)
    again, *more = batch_norm.norm_activation(x @ kernel, norm, **style)
    assert outputs.dtype == again.dtype == dtype
    assert all(statistic.dtype == jnp.float32 for statistic in (*statistics, *more))
    np.testing.assert_allclose(
        np.float32(outputs), np.float32(again), atol={jnp.float32: 1e-5, jnp.bfloat16: 0.1}[dtype]
    )


@pytest.mark.parametrize("by_batch", [True, False])
def test_the_form_for_accelerators_equals_the_definition(by_batch: bool) -> None:
    values = arguments((3, 4, 5, 6), 6)
    inputs = [values[name] for name in NAMES]
    with jax.enable_x64(True):
        ours = values_and_gradients(
            lambda x, *arrays: batch_norm.plain_norm_activation(
                x, Norm(*arrays, jnp.asarray(float(by_batch))), epsilon=EPSILON, activation=jax.nn.silu
            ),
            inputs,
        )
        theirs = values_and_gradients(lambda *arrays: plain(*arrays, by_batch, jax.nn.silu), inputs)
    assert_close(ours, theirs, tolerance=1e-11)


def test_only_a_cpu_has_gradients_of_its_own() -> None:
    def loss(x: jax.Array, kernel: jax.Array) -> jax.Array:
        norm = Norm(*[jnp.ones(5)] * 4, jnp.float32(1))
        style: dict[str, Any] = {"epsilon": EPSILON, "activation": jax.nn.silu}
        y, *_ = batch_norm.pointwise_norm_activation(x, kernel, norm, **style)
        return batch_norm.norm_activation(y, norm, **style)[0].sum()

    arrays = jnp.ones((2, 3, 3, 4)), jnp.ones((4, 5))
    texts = [
        jax.export.export(jax.jit(jax.grad(loss)), platforms=(platform,))(*arrays).mlir_module()
        for platform in ("cpu", "tpu")
    ]
    assert ["inlineable" in text for text in texts] == [True, False]
