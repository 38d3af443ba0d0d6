"""Filters against SciPy and Pillow."""

import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage
from PIL import Image

from bt_jax.data.augment import filters

IMAGE = np.random.default_rng(0).random((40, 40), np.float32)


@pytest.mark.parametrize("deviation", [0.0, 0.4, 1.0, 2.5])
def test_a_blur_is_that_of_scipy(deviation):
    found = filters.blur(jnp.asarray(IMAGE), jnp.float32(deviation), largest=2.5)
    # The kernel of all deviations reaches three times the largest one.
    radius = {"radius": 8} if deviation else {}
    expected = scipy.ndimage.gaussian_filter(IMAGE, deviation, mode="nearest", **radius)
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize(
    ("kernel", "of_pillow"),
    [(0, Image.Resampling.BOX), (1, Image.Resampling.BILINEAR), (2, Image.Resampling.BICUBIC)],
)
@pytest.mark.parametrize("length", [40, 31, 20, 7, 1])
def test_resampling_is_that_of_pillow(kernel, of_pillow, length):
    matrix = filters.make_resampling(40, 40, length=length, kernel=kernel)
    found = filters.filter_by(matrix, jnp.asarray(IMAGE))
    expected = np.asarray(Image.fromarray(IMAGE).resize((length, length), of_pillow))
    # An average counts a pixel whole or not at all, as Pillow does but for ties.
    np.testing.assert_allclose(found[:length, :length], expected, atol=2e-5)
    assert not np.asarray(found)[length:].any()


@pytest.mark.parametrize("kernel", [1, 2])
def test_what_is_enlarged_again_is_that_of_pillow(kernel):
    of_pillow = {1: Image.Resampling.BILINEAR, 2: Image.Resampling.BICUBIC}[kernel]
    matrix = filters.reduce_and_enlarge(40, jnp.int32(13), reducing=jnp.int32(kernel), enlarging=jnp.int32(kernel))
    small = Image.fromarray(IMAGE).resize((13, 13), of_pillow)
    expected = np.asarray(small.resize((40, 40), of_pillow))
    np.testing.assert_allclose(filters.filter_by(matrix, jnp.asarray(IMAGE)), expected, atol=2e-5)


def test_a_coarse_grid_becomes_a_smooth_picture():
    coarse = np.random.default_rng(1).random((4, 4), np.float32)
    found = filters.filter_by(filters.make_resampling(4, 60, length=60, kernel=2), jnp.asarray(coarse))
    expected = np.asarray(Image.fromarray(coarse).resize((60, 60), Image.Resampling.BICUBIC))
    np.testing.assert_allclose(found, expected, atol=1e-5)
