"""What a network sees of a grey image: three channels, shifted and scaled."""

import jax.numpy as jnp
import numpy as np
import pytest

from bt_jax.models import normalise
from bt_jax.models.normalise import Normalisation


def test_each_channel_is_shifted_and_scaled_by_its_own_numbers() -> None:
    made = Normalisation(mean=(0.5, 0.25, 0.0), std=(0.5, 0.25, 2.0))
    grey = jnp.asarray([[[0.0, 0.5], [1.0, 0.25]]])
    expected = [[[[-1, -1, 0], [0, 1, 0.25]], [[1, 3, 0.5], [-0.5, 0, 0.125]]]]
    outputs = made(grey)
    assert outputs.shape == (1, 2, 2, 3) and outputs.dtype == jnp.float32
    np.testing.assert_allclose(outputs, expected, atol=1e-6)


def test_the_dtype_is_that_asked_for_and_the_arithmetic_float32() -> None:
    grey = jnp.linspace(0, 1, 12).reshape(1, 3, 4)
    half = normalise.IMAGENET(grey, dtype=jnp.bfloat16)
    assert half.dtype == jnp.bfloat16
    np.testing.assert_array_equal(half, normalise.IMAGENET(grey).astype(jnp.bfloat16))


@pytest.mark.parametrize(("value", "expected"), [(0, -127 / 128), (127, 0.0), (255, 1.0)])
def test_lite_is_the_scaling_of_bytes_by_127_and_128(value: int, expected: float) -> None:
    outputs = normalise.LITE(jnp.full((1, 1, 1), value / 255))
    np.testing.assert_allclose(outputs, np.full((1, 1, 1, 3), expected), atol=1e-6)


def test_imagenet_has_the_mean_of_red_first() -> None:
    outputs = normalise.IMAGENET(jnp.full((1, 1, 1), 0.485))
    np.testing.assert_allclose(outputs[0, 0, 0], [0, (0.485 - 0.456) / 0.224, (0.485 - 0.406) / 0.225], atol=1e-6)
