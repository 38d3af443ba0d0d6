"""The warp: where a point goes, and bilinear interpolation against SciPy."""

import math

import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage

from bt_jax.data.augment import geometry
from bt_jax.data.augment.geometry import Warp


def dot(x: int, y: int, *, size: int = 80) -> np.ndarray:
    """A bright square of 5 pixels around a place."""
    image = np.zeros((size, size), np.uint8)
    image[y - 2 : y + 3, x - 2 : x + 3] = 250
    return image


def place(seen: object) -> tuple[float, float]:
    image = np.asarray(seen, np.float64)
    down, across = np.mgrid[: image.shape[0], : image.shape[1]]
    return (image * across).sum() / image.sum(), (image * down).sum() / image.sum()


@pytest.mark.parametrize("size", [1, 2, 5, 80])
def test_what_changes_nothing_gives_the_same_pixels(size: int) -> None:
    image = np.random.default_rng(size).integers(0, 256, (size, size), np.uint8)
    np.testing.assert_allclose(Warp()(jnp.asarray(image)), image / 255, atol=1e-4)
    np.testing.assert_allclose(Warp(mirrored=True)(jnp.asarray(image)), image[:, ::-1] / 255, atol=1e-4)


def test_each_part_moves_a_point_to_its_place() -> None:
    assert place(Warp(mirrored=True)(dot(20, 30))) == pytest.approx((59, 30), abs=0.1)
    assert place(Warp(scale=1.5)(dot(30, 30))) == pytest.approx((25.25, 25.25), abs=0.1)
    assert place(Warp(shift=(0.1, -0.05))(dot(30, 30))) == pytest.approx((38, 26), abs=0.1)
    # Width over height grows by the square of the aspect.
    assert place(Warp(aspect=1.25)(dot(30, 30))) == pytest.approx((27.6, 31.9), abs=0.2)
    assert place(Warp(angle=math.pi / 2)(dot(20, 40))) == pytest.approx((39, 20), abs=1.1)


def test_interpolation_is_that_of_scipy_with_black_outside() -> None:
    generator = np.random.default_rng(0)
    image = generator.integers(0, 256, (17, 17), np.uint8)
    x, y = generator.uniform(-4, 21, (2, 17, 17)).astype(np.float32)
    found = geometry.interpolate(jnp.asarray(image), jnp.asarray(x), jnp.asarray(y))
    around = np.pad(image.astype(np.float64), 6)
    expected = scipy.ndimage.map_coordinates(around, [y + 6.0, x + 6.0], order=1)
    np.testing.assert_allclose(found, expected / 255, atol=1e-5)


def test_an_elastic_warp_without_displacement_is_the_plain_one() -> None:
    image = np.random.default_rng(0).integers(0, 256, (40, 40), np.uint8)
    options = {"angle": 0.3, "scale": 1.2, "shift": (0.05, 0.0)}
    plain, elastic = (Warp(**options, displacements=grid)(image) for grid in (None, jnp.zeros((4, 4, 2))))
    np.testing.assert_allclose(plain, elastic, atol=1e-6)


def test_all_points_displaced_alike_are_a_shift() -> None:
    moved = np.zeros((4, 4, 2), np.float32)
    moved[..., 0] = 0.1
    # What lies further right is shown here.
    assert place(Warp(displacements=jnp.asarray(moved))(dot(40, 40))) == pytest.approx((32, 40), abs=0.2)


def test_an_elastic_warp_has_no_seams_and_moves_no_further_than_said() -> None:
    ramp = np.broadcast_to(np.arange(200, dtype=np.uint8), (200, 200))
    for seed in range(20):
        generator = np.random.default_rng(seed)
        largest = generator.uniform(0, 0.05)
        grid = generator.uniform(-largest, largest, (4, 4, 2)).astype(np.float32)
        inside = 255 * np.asarray(Warp(displacements=jnp.asarray(grid))(ramp))[20:-20, 20:-20]
        # Cubic interpolation may overshoot the points by a little.
        assert np.abs(inside - ramp[20:-20, 20:-20]).max() <= 1.3 * largest * 200 + 1
        assert np.abs(np.diff(inside, axis=0)).max() < 2 and np.diff(inside, axis=1).min() > -1
