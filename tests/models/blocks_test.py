import math

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st

from bt_jax.common.errors import UsageError
from bt_jax.models import blocks


@settings(deadline=None, max_examples=30)
@given(size=st.integers(1, 6), channels=st.integers(1, 3))
def test_flattening_takes_the_first_channels(size: int, channels: int) -> None:
    x = np.random.default_rng(0).normal(size=(2, size, size + 1, 3))
    features = size * (size + 1) * channels
    flat = np.asarray(blocks.flatten(jnp.asarray(x, jnp.float32), features))
    np.testing.assert_array_equal(flat, x[..., :channels].reshape(2, features).astype(np.float32))


def test_what_is_flat_stays() -> None:
    x = jnp.arange(6.0).reshape(2, 3)
    np.testing.assert_array_equal(blocks.flatten(x, 3), x)


def test_an_image_of_another_size_is_refused() -> None:
    with pytest.raises(TypeError, match="reshape"):
        blocks.flatten(jnp.zeros((2, 9, 9, 3)), 64)


@given(size=st.integers(1, 600), times=st.integers(0, 8))
def test_pooled_size(size: int, times: int) -> None:
    left = size
    for _ in range(times):
        left //= 2
    if left:
        assert blocks.compute_pooled_size(size, times=times, name="cnn") == left
    else:
        with pytest.raises(
            UsageError, match=f"of {size} pixels are too small for the {times} poolings of cnn: .* to {2**times} "
        ):
            blocks.compute_pooled_size(size, times=times, name="cnn")


def test_convolution_block_by_hand() -> None:
    generator = np.random.default_rng(0)
    block = blocks.ConvolutionBlock(2, 4, convolutions=2, dropout_rate=0.5, generator=generator)
    x = generator.normal(size=(2, 7, 6, 3))
    expected = x[..., :2]
    for layer in (block.conv_1, block.conv_2):
        layer.bias[...] = jnp.asarray(generator.normal(size=4), jnp.float32)
        padded = np.pad(expected, ((0, 0), (1, 1), (1, 1), (0, 0)))
        windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(1, 2))
        expected = np.maximum(np.einsum("bhwcij,ijcd->bhwd", windows, layer.kernel[...]) + layer.bias[...], 0)
    expected = expected[:, :6].reshape(2, 3, 2, 3, 2, 4).max((2, 4))
    np.testing.assert_allclose(block(jnp.asarray(x, jnp.float32), trained=False, rngs=None), expected, atol=1e-5)


def test_dense_block_by_hand() -> None:
    generator = np.random.default_rng(0)
    block = blocks.DenseBlock(12, 5, dropout_rate=0.5, generator=generator)
    block.dense.bias[...] = jnp.arange(5.0) - 2
    x = generator.normal(size=(3, 2, 2, 3))
    expected = np.maximum(x.reshape(3, 12) @ np.asarray(block.dense.kernel[...]) + np.arange(5) - 2, 0)
    np.testing.assert_allclose(block(jnp.asarray(x, jnp.float32), trained=False, rngs=None), expected, atol=1e-5)


def test_dropout_follows_the_activation() -> None:
    generator = np.random.default_rng(0)
    x = jnp.asarray(np.abs(generator.normal(size=(8, 8, 8, 2))), jnp.float32)
    convolution = blocks.ConvolutionBlock(2, 16, dropout_rate=0.25, generator=generator)
    dense = blocks.DenseBlock(8 * 8 * 2, 64, dropout_rate=0.25, generator=generator)
    for block in (convolution, dense):
        plain = np.asarray(block(x, trained=False, rngs=None))
        dropped = np.asarray(block(x, trained=True, rngs=nnx.Rngs(dropout=0)))
        kept = dropped != 0
        np.testing.assert_allclose(dropped[kept], plain[kept] / 0.75, rtol=1e-5)
        zeroed = 1 - kept[plain > 0].mean()
        assert abs(zeroed - 0.25) < 5 * math.sqrt(0.25 * 0.75 / (plain > 0).sum())


def test_output_is_float32() -> None:
    head = blocks.Output(12, 5, generator=np.random.default_rng(0))
    assert head(jnp.zeros((3, 2, 2, 3), jnp.bfloat16), trained=True, rngs=None).dtype == jnp.float32


@pytest.mark.parametrize("channels", [0, 2, 4])
def test_channels(channels: int) -> None:
    assert blocks.check_channels(1) == 1
    assert blocks.check_channels(3) == 3
    with pytest.raises(UsageError, match=rf"config\.model\.channels is {channels}: use 1 "):
        blocks.check_channels(channels)
