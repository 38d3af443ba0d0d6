from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st

from bt_jax.models import layers
from bt_jax.models.normalise import IMAGENET, LITE


def batch_norm(channels: int, **options: Any) -> layers.BatchNorm:
    """A layer whose four arrays are all random."""
    norm = layers.BatchNorm(channels, **({"epsilon": 1e-3, "momentum": 0.9} | options))
    generator = np.random.default_rng(0)
    for name in ("scale", "bias", "mean", "variance"):
        getattr(norm, name)[...] = jnp.asarray(np.abs(generator.normal(size=channels)) + 0.1, jnp.float32)
    return norm


def arrays(norm: layers.BatchNorm) -> tuple[np.ndarray, ...]:
    return tuple(np.asarray(getattr(norm, name)[...], np.float64) for name in ("scale", "bias", "mean", "variance"))


@given(size=st.integers(1, 50), kernel_size=st.integers(1, 7), stride=st.integers(1, 4))
def test_same_padding(size: int, kernel_size: int, stride: int) -> None:
    before, after = layers.compute_same_padding(size, kernel_size, stride)
    outputs = -(-size // stride)
    assert (size + before + after - kernel_size) // stride + 1 >= outputs
    assert after - before in (0, 1)
    # No zero more than needed.
    assert before + after == 0 or (size + before + after - 1 - kernel_size) // stride + 1 < outputs


def test_paddings_of_the_models() -> None:
    assert layers.compute_same_padding(240, 3, 2) == (0, 1)
    assert layers.compute_same_padding(15, 5, 2) == (2, 2)
    assert layers.compute_same_padding(30, 5, 2) == (1, 2)
    assert layers.compute_symmetric_padding(240, 3, 2) == (1, 1)
    assert layers.compute_symmetric_padding(30, 5, 2) == (2, 2)


@pytest.mark.parametrize(
    ("kernel_size", "stride", "padding"), [(1, 1, "same"), (1, 2, "same"), (3, 2, "same"), (3, 2, "symmetric")]
)
@pytest.mark.parametrize("use_bias", [True, False])
def test_convolution(kernel_size: int, stride: int, padding: str, use_bias: bool) -> None:
    generator = np.random.default_rng(0)
    options = {"kernel_size": kernel_size, "stride": stride, "padding": padding, "use_bias": use_bias}
    convolution = layers.Convolution(3, 4, generator=generator, **options)
    if use_bias:
        convolution.bias[...] = jnp.arange(4.0)
    x = generator.normal(size=(2, 6, 7, 3))
    kernel = np.asarray(convolution.kernel[...], np.float64)
    pads = [layers.PADDINGS[padding](length, kernel_size, stride) for length in x.shape[1:3]]
    padded = np.pad(x, ((0, 0), *pads, (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (kernel_size, kernel_size), axis=(1, 2))
    expected = np.einsum("bhwcij,ijcd->bhwd", windows[:, ::stride, ::stride], kernel)
    expected = expected + np.arange(4) if use_bias else expected
    np.testing.assert_allclose(convolution(jnp.asarray(x, jnp.float32)), expected, rtol=1e-4, atol=1e-4)


def test_batch_norm_in_inference() -> None:
    norm = batch_norm(5)
    scale, bias, mean, variance = arrays(norm)
    x = np.random.default_rng(1).normal(2, 3, size=(4, 3, 2, 5))
    outputs = norm(jnp.asarray(x, jnp.float32), trained=False)
    np.testing.assert_allclose(outputs, (x - mean) / np.sqrt(variance + 1e-3) * scale + bias, rtol=1e-4, atol=1e-4)
    for before, after in zip((scale, bias, mean, variance), arrays(norm), strict=True):
        np.testing.assert_array_equal(before, after)


@pytest.mark.parametrize("shape", [(8, 5), (4, 3, 2, 5)])
def test_batch_norm_in_training(shape: tuple[int, ...]) -> None:
    norm = batch_norm(5, epsilon=0.01, momentum=0.75)
    scale, bias, mean, variance = arrays(norm)
    x = np.random.default_rng(1).normal(2, 3, size=shape)
    outputs = norm(jnp.asarray(x, jnp.float32), trained=True)
    axes = tuple(range(len(shape) - 1))
    expected = (x - x.mean(axes)) / np.sqrt(x.var(axes) + 0.01) * scale + bias
    np.testing.assert_allclose(outputs, expected, rtol=1e-4, atol=1e-4)
    *kept, new_mean, new_variance = arrays(norm)
    np.testing.assert_array_equal(kept, (scale, bias))
    np.testing.assert_allclose(new_mean, 0.75 * mean + 0.25 * x.mean(axes), rtol=1e-5)
    np.testing.assert_allclose(new_variance, 0.75 * variance + 0.25 * x.var(axes), rtol=1e-5)


def test_running_statistics_carry_no_gradient() -> None:
    def statistics(x: jax.Array) -> jax.Array:
        norm = batch_norm(5)
        norm(x, trained=True)
        return norm.mean[...].sum() + norm.variance[...].sum()

    assert not np.any(jax.grad(statistics)(jnp.arange(20.0).reshape(4, 5)))


@pytest.mark.parametrize("kind", ["pointwise", "convolution", "depthwise"])
def test_fixed_statistics_fold_into_the_kernel(kind: str) -> None:
    generator = np.random.default_rng(0)
    norm, channels = batch_norm(4, batch_statistics=False), 4 if kind == "depthwise" else 3
    if kind == "depthwise":
        convolution: Any = layers.DepthwiseConvolution(4, kernel_size=3, stride=2, generator=generator)
    else:
        size = 1 if kind == "pointwise" else 3
        convolution = layers.Convolution(3, 4, kernel_size=size, generator=generator)
    x = jnp.asarray(generator.normal(size=(2, 6, 7, channels)), jnp.float32)
    statistics = [np.asarray(norm.mean[...]), np.asarray(norm.variance[...])]

    def folded(x: jax.Array, kernel: jax.Array, scale: jax.Array, bias: jax.Array) -> jax.Array:
        own_convolution, own_norm = nnx.clone((convolution, norm))  # those outside belong to no trace
        own_convolution.kernel[...], own_norm.scale[...], own_norm.bias[...] = kernel, scale, bias
        y = layers.convolve_and_normalise(own_convolution, own_norm, x, trained=True, activation=jax.nn.silu)
        np.testing.assert_array_equal([own_norm.mean[...], own_norm.variance[...]], statistics, "they stay")
        return y

    def plain(x: jax.Array, kernel: jax.Array, scale: jax.Array, bias: jax.Array) -> jax.Array:
        own = nnx.clone(convolution)
        own.kernel[...] = kernel
        normalised = (own(x) - norm.mean[...]) / jnp.sqrt(norm.variance[...] + norm.epsilon)
        return jax.nn.silu(normalised * scale + bias)

    given = x, convolution.kernel[...], norm.scale[...], norm.bias[...]
    outputs, pull = jax.vjp(folded, *given)
    expected, pull_expected = jax.vjp(plain, *given)
    np.testing.assert_allclose(outputs, expected, rtol=1e-5, atol=1e-5)
    gradient = jnp.asarray(generator.normal(size=outputs.shape), jnp.float32)
    for mine, theirs in zip(pull(gradient), pull_expected(gradient), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-4, atol=1e-5)


def test_batch_norm_computes_in_float32() -> None:
    x = jnp.asarray(np.random.default_rng(1).normal(3, 0.5, size=(4096, 5)), jnp.bfloat16)
    norm, exact = batch_norm(5), batch_norm(5)
    outputs = norm(x, trained=True)
    assert outputs.dtype == jnp.bfloat16
    exact(x.astype(jnp.float32), trained=True)
    for ours, theirs in zip(arrays(norm), arrays(exact), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_batch_norm_of_a_constant_has_no_negative_variance() -> None:
    norm = layers.BatchNorm(1, epsilon=1e-3, momentum=0.0)
    outputs = norm(jnp.full((1000, 1), 1234.567), trained=True)
    assert np.isfinite(outputs).all()
    assert (arrays(norm)[3] >= 0).all()


@pytest.mark.parametrize("trained", [True, False])
def test_a_traced_flag_equals_the_static_one(trained: bool) -> None:
    x = jnp.asarray(np.random.default_rng(1).normal(2, 3, size=(6, 5)), jnp.float32)

    def run(flag: layers.Trained) -> Any:
        norm = batch_norm(5)
        outputs = layers.dropout(norm(x, trained=flag), rate=0.5, trained=flag, rngs=nnx.Rngs(dropout=3))
        return outputs, norm.mean[...], norm.variance[...]

    for static, traced in zip(run(trained), jax.jit(run)(jnp.asarray(trained)), strict=True):
        np.testing.assert_allclose(static, traced, rtol=1e-5, atol=1e-6)
    assert np.any(run(True)[0] != run(False)[0])


@settings(deadline=None, max_examples=10)
@given(rate=st.floats(0.05, 0.9), seed=st.integers(0, 1000))
def test_dropout_statistics(rate: float, seed: int) -> None:
    x = jnp.ones((200, 50))
    outputs = np.asarray(layers.dropout(x, rate=rate, trained=True, rngs=nnx.Rngs(dropout=seed)))
    assert np.allclose(outputs[outputs != 0], 1 / (1 - rate), rtol=1e-5)
    # Five standard deviations of 10,000 coins.
    assert abs((outputs == 0).mean() - rate) < 5 * np.sqrt(rate * (1 - rate) / outputs.size)


def test_stochastic_depth_drops_whole_records() -> None:
    x = jnp.ones((4000, 2, 2, 3))
    outputs = layers.dropout(x, rate=0.2, trained=True, rngs=nnx.Rngs(dropout=0), whole_records=True)
    records = np.asarray(outputs).reshape(4000, -1)
    assert (records == records[:, :1]).all()
    assert set(np.unique(records)) == {np.float32(0), np.float32(1) / np.float32(1 - 0.2)}
    assert abs((records[:, 0] == 0).mean() - 0.2) < 5 * np.sqrt(0.2 * 0.8 / 4000)


def test_dropout_does_nothing_where_it_should_not() -> None:
    x = jnp.arange(6.0).reshape(2, 3)
    assert layers.dropout(x, rate=0.5, trained=False, rngs=None) is x
    assert layers.dropout(x, rate=0.0, trained=True, rngs=None) is x
    with pytest.raises(ValueError, match="needs rngs"):
        layers.dropout(x, rate=0.5, trained=True, rngs=None)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_images_that_exchange_their_style_keep_their_content(dtype: str) -> None:
    """About half of 400 images change; their statistics then lie between their own and those of the partner."""
    generator = np.random.default_rng(0)
    x = generator.normal(size=(400, 6, 5, 3)) * generator.uniform(0.5, 2, (400, 1, 1, 3))
    x = jnp.asarray(x + generator.normal(size=(400, 1, 1, 3)), dtype)
    y = layers.mix_style(x, layers.draw_style_shares(jax.random.key(0), len(x)))
    assert y.dtype == x.dtype
    before, after = (np.asarray(values, np.float64) for values in (x, y))
    means, deviations = ([values.mean((1, 2)) for values in (before, after)], [
        values.std((1, 2)) for values in (before, after)
    ])  # fmt: skip
    tolerance = 1e-3 if dtype == "float32" else 0.03
    shares = []
    for old, new in (means, deviations):
        apart = old[::-1] - old
        shares.append(((new - old) * apart).sum(-1) / (apart**2).sum(-1))
        np.testing.assert_allclose(new, old + shares[-1][:, None] * apart, atol=tolerance)
    np.testing.assert_allclose(shares[0], shares[1], atol=20 * tolerance)
    content = [
        (values - mean[:, None, None]) / deviation[:, None, None]
        for values, mean, deviation in zip((before, after), means, deviations, strict=True)
    ]
    np.testing.assert_allclose(*content, atol=4 * tolerance)
    kept = np.abs(shares[0]) < 1e-3 if dtype == "float32" else np.abs(before - after).max((1, 2, 3)) < 0.02
    # A Beta distribution with this parameter has 9 % of its mass within a thousandth of 0.
    assert 0.4 < kept.mean() < 0.7
    assert shares[0].max() > 0.95
    assert shares[0].min() > -20 * tolerance


def test_no_gradient_flows_through_the_statistics_of_a_style() -> None:
    """The gradient of an image is that of an affine map, and the other images have none of it."""
    x = jnp.asarray(np.random.default_rng(0).normal(size=(4, 3, 3, 2)), jnp.float32)
    share = jnp.array([0.7, 0.0, 0.2, 0.0])
    weights = jnp.asarray(np.random.default_rng(1).normal(size=(3, 3, 2)), jnp.float32)
    gradient = jax.grad(lambda x: (layers.mix_style(x, share)[0] * weights).sum())(x)
    ratio = layers.mix_style(x, share)[0].std((0, 1)) / x[0].std((0, 1))
    np.testing.assert_allclose(gradient[0], weights * ratio, rtol=1e-3)
    assert not np.any(gradient[1:])


def test_head_with_hidden_blocks() -> None:
    options = {"hidden": (6, 5), "dropout_rate": 0.5, "epsilon": 1e-3, "momentum": 0.9}
    head = layers.Head(4, 3, generator=np.random.default_rng(0), **options)
    for i, size in ((1, 6), (2, 5)):
        setattr(head, f"norm_{i}", batch_norm(size))
    head.output.bias[...] = jnp.arange(3.0)
    x = np.random.default_rng(1).normal(size=(2, 3, 3, 4))
    expected = x.mean((1, 2))
    for i in (1, 2):
        scale, bias, mean, variance = arrays(getattr(head, f"norm_{i}"))
        kernel = np.asarray(getattr(head, f"dense_{i}").kernel[...], np.float64)
        expected = np.maximum((expected @ kernel - mean) / np.sqrt(variance + 1e-3) * scale + bias, 0)
    expected = expected @ np.asarray(head.output.kernel[...], np.float64) + np.arange(3)
    logits = head(jnp.asarray(x, jnp.float32), trained=False, rngs=None)
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-5)
    assert head(jnp.asarray(x, jnp.bfloat16), trained=False, rngs=None).dtype == jnp.float32


def test_initial_values() -> None:
    values = np.asarray(layers.draw_truncated_normal(np.random.default_rng(0), (100, 1000), fan=50))
    np.testing.assert_allclose(values.std(), np.sqrt(2 / 50), rtol=0.01)
    np.testing.assert_allclose(values.mean(), 0, atol=0.005)
    assert np.abs(values).max() <= 2 * np.sqrt(2 / 50) / 0.8796
    dense = layers.Dense(400, 300, generator=np.random.default_rng(0))
    np.testing.assert_allclose(np.var(dense.kernel[...]), 2 / (400 + 300), rtol=0.02)
    assert not np.any(dense.bias[...])


def test_normalisation() -> None:
    grey = jnp.asarray(np.arange(256, dtype=np.float32).reshape(1, 16, 16) / 255)
    lite = np.asarray(LITE(grey))
    assert lite.shape == (1, 16, 16, 3)
    np.testing.assert_allclose(lite[0, :, :, 1].ravel(), (np.arange(256) - 127) / 128, atol=1e-6)
    expected = (np.asarray(grey)[..., None] - np.array([0.485, 0.456, 0.406])) / np.array([0.229, 0.224, 0.225])
    np.testing.assert_allclose(IMAGENET(grey), expected, rtol=1e-5, atol=1e-5)
    assert LITE(grey, dtype=jnp.bfloat16).dtype == jnp.bfloat16
