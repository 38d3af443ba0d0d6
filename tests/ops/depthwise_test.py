import functools
import re
from typing import Any

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from bt_jax.models import layers
from bt_jax.ops import depthwise
from tests import kernels

PADS = st.tuples(st.integers(0, 3), st.integers(0, 3))


def values_and_gradients(
    function: Any, x: Any, kernel: Any, *, stride: int, padding: depthwise.Padding
) -> list[np.ndarray]:
    """The output, and both gradients of its product with fixed random numbers."""

    # Dozens of small programs that each run once: compiling them well would take most of the time.
    @functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
    def run(x: jax.Array, kernel: jax.Array) -> list[jax.Array]:
        outputs, pull_back = jax.vjp(lambda *operands: function(*operands, stride=stride, padding=padding), x, kernel)
        upstream = np.random.default_rng(1).normal(size=outputs.shape)
        return [outputs, *pull_back(jnp.asarray(upstream, outputs.dtype))]

    return [np.asarray(array) for array in run(jnp.asarray(x), jnp.asarray(kernel))]


def assert_equals_native(shape: tuple[int, ...], *, size: int, stride: int, padding: depthwise.Padding) -> None:
    generator = np.random.default_rng(0)
    x, kernel = generator.normal(size=shape), generator.normal(size=(size, size, shape[-1]))
    options = {"stride": stride, "padding": padding}
    with jax.enable_x64(True):
        ours = values_and_gradients(depthwise.shift_and_add, x, kernel, **options)
        theirs = values_and_gradients(depthwise.convolve_natively, x, kernel, **options)
    for one, other in zip(ours, theirs, strict=True):
        assert one.dtype == np.float64
        assert one.shape == other.shape
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-12 * max(1, np.abs(other).max(initial=0)))


@pytest.mark.slow
@settings(max_examples=12, deadline=None)
@given(
    batch=st.integers(1, 2),
    rows=st.integers(1, 9),
    columns=st.integers(1, 9),
    channels=st.integers(1, 3),
    size=st.sampled_from([1, 2, 3, 5]),
    stride=st.integers(1, 3),
    padding=st.tuples(PADS, PADS),
)
def test_equals_the_native_convolution(
    batch: int, rows: int, columns: int, channels: int, size: int, stride: int, padding: depthwise.Padding
) -> None:
    assume(rows + sum(padding[0]) >= size and columns + sum(padding[1]) >= size)
    assert_equals_native((batch, rows, columns, channels), size=size, stride=stride, padding=padding)


@pytest.mark.parametrize(
    ("length", "size", "stride"), [(12, 3, 1), (12, 3, 2), (15, 3, 2), (12, 5, 2), (15, 5, 1), (15, 5, 2), (2, 5, 2)]
)
def test_equals_the_native_convolution_as_the_models_use_it(length: int, size: int, stride: int) -> None:
    padding = (
        layers.compute_same_padding(length, size, stride),
        layers.compute_symmetric_padding(length + 1, size, stride),
    )
    assert_equals_native((2, length, length + 1, 4), size=size, stride=stride, padding=padding)


def test_by_example() -> None:
    x = jnp.arange(9.0).reshape(1, 3, 3, 1)
    kernel = jnp.array([[1.0, 10.0], [100.0, 1000.0]])[..., None]
    for function in (depthwise.shift_and_add, depthwise.convolve_natively, depthwise.depthwise_convolution):
        outputs = function(x, kernel, stride=2, padding=((0, 1), (0, 1)))
        np.testing.assert_array_equal(outputs[0, :, :, 0], [[4310, 502], [76, 8]])


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_keeps_the_dtype(dtype: Any) -> None:
    generator = np.random.default_rng(0)
    x = jnp.asarray(generator.normal(size=(2, 7, 6, 5)), dtype)
    kernel = jnp.asarray(generator.normal(size=(3, 3, 5)), dtype)
    options = {"stride": 2, "padding": ((1, 1), (0, 1))}
    ours = values_and_gradients(depthwise.depthwise_convolution, x, kernel, **options)
    theirs = values_and_gradients(depthwise.convolve_natively, *(np.float32(array) for array in (x, kernel)), **options)
    for one, other in zip(ours, theirs, strict=True):
        assert one.dtype == dtype
        tolerance = {jnp.float32: 1e-5, jnp.bfloat16: 0.05}[dtype]
        np.testing.assert_allclose(np.float32(one), other, rtol=0, atol=tolerance * np.abs(other).max())


@pytest.mark.parametrize(("size", "stride"), [(3, 1), (5, 1), (3, 2), (5, 2)])
def test_the_taps_of_a_filter_gradient_share_their_kernels(size: int, stride: int) -> None:
    """With the place of each tap in the code, the layers of EfficientNet-B1 had 222 kernels, a quarter of its step."""
    x, kernel = jnp.ones((2, 16, 16, 8)), jnp.ones((size, size, 8))
    padding = ((size // 2, size // 2),) * 2
    form = functools.partial(depthwise.shift_and_add, stride=stride, padding=padding)
    gradient = jax.jit(lambda x, kernel, upstream: jax.vjp(lambda kernel: form(x, kernel), kernel)[1](upstream))
    text = gradient.lower(x, kernel, form(x, kernel)).compile().as_text()
    products = [body for body in kernels.list_kernels(text) if " multiply(" in body and " dynamic-slice(" in body]
    assert 1 <= len(products) <= 3
    assert len(re.findall(r" fusion\(.*while/body", text)) >= size * size


def test_one_program_for_all_platforms() -> None:
    def run(x: jax.Array, kernel: jax.Array) -> jax.Array:
        return depthwise.depthwise_convolution(x, kernel, stride=1, padding=((1, 1), (1, 1)))

    x, kernel = jnp.ones((1, 4, 4, 2)), jnp.ones((3, 3, 2))
    exported = jax.export.export(jax.jit(run), platforms=("cpu", "cuda", "tpu"))(x, kernel)
    np.testing.assert_allclose(exported.call(x, kernel), run(x, kernel), rtol=1e-6)
    text = exported.mlir_module()
    assert "feature_group_count = 2" in text  # the branch of the accelerators


def test_mapped_and_second_derivatives_agree_with_the_native_form():
    """What is written for several devices must not cost what a plain function can do."""
    generator = np.random.default_rng(0)
    x = jnp.asarray(generator.normal(size=(3, 2, 6, 6, 4)), jnp.float32)
    kernel = jnp.asarray(generator.normal(size=(3, 3, 4)), jnp.float32)

    def loss(form, kernel, x):
        return (form(x, kernel, stride=1, padding=((1, 1), (1, 1))) ** 2).sum()

    ours, native = (functools.partial(loss, form) for form in (depthwise.shift_and_add, depthwise.convolve_natively))
    for argument in (0, 1):
        found, expected = (
            jax.jit(jax.vmap(jax.grad(each, argnums=argument), (None, 0)))(kernel, x) for each in (ours, native)
        )
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
    found, expected = (jax.jit(jax.hessian(each))(kernel, x[0]) for each in (ours, native))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-3)
