import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from bt_jax.data.augment import geometry
from bt_jax.data.augment.geometry import Warp


def dot(x: int, y: int, *, size: int = 80) -> Image.Image:
    """A bright square of 5 pixels around a place."""
    image = np.zeros((size, size), np.uint8)
    image[y - 2 : y + 3, x - 2 : x + 3] = 250
    return Image.fromarray(image)


def place(picture: Image.Image) -> tuple[float, float]:
    image = np.asarray(picture, np.float64)
    down, across = np.mgrid[: image.shape[0], : image.shape[1]]
    return (image * across).sum() / image.sum(), (image * down).sum() / image.sum()


def test_what_changes_nothing_says_so() -> None:
    assert Warp().changes_nothing
    changes = [{"mirrored": True}, {"angle": 0.1}, {"scale": 0.9}, {"aspect": 1.1}, {"shift": (0.0, 0.1)},
               {"displacements": np.zeros((4, 4, 2))}]  # fmt: skip
    assert not any(Warp(**change).changes_nothing for change in changes)


def test_each_part_moves_a_point_to_its_place() -> None:
    assert place(Warp(mirrored=True)(dot(20, 30))) == pytest.approx((59, 30), abs=0.1)
    assert place(Warp(scale=1.5)(dot(30, 30))) == pytest.approx((25.25, 25.25), abs=0.1)
    assert place(Warp(shift=(0.1, -0.05))(dot(30, 30))) == pytest.approx((38, 26), abs=0.1)
    # Width over height grows by the square of the aspect.
    assert place(Warp(aspect=1.25)(dot(30, 30))) == pytest.approx((27.6, 31.9), abs=0.2)
    assert place(Warp(angle=math.pi / 2)(dot(20, 40))) == pytest.approx((39, 20), abs=1.1)


def test_an_elastic_warp_without_displacement_is_the_plain_one() -> None:
    picture = Image.fromarray(geometry.smooth(np.random.default_rng(0).uniform(0, 250, (6, 6)), size=80).astype("u1"))
    options = {"angle": 0.3, "scale": 1.2, "shift": (0.05, 0.0)}
    plain, elastic = (
        np.asarray(Warp(**options, displacements=grid)(picture), int) for grid in (None, np.zeros((4, 4, 2)))
    )
    assert np.abs(plain - elastic)[2:-2, 2:-2].max() <= 2


def test_all_points_displaced_alike_are_a_shift() -> None:
    moved = np.zeros((4, 4, 2))
    moved[..., 0] = 0.1
    # What lies further right is shown here.
    assert place(Warp(displacements=moved)(dot(40, 40))) == pytest.approx((32, 40), abs=0.2)


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 1000), largest=st.floats(0, 0.05))
def test_an_elastic_warp_has_no_seams_and_moves_no_further_than_said(seed: int, largest: float) -> None:
    generator = np.random.default_rng(seed)
    grid = geometry.draw_displacements(generator, largest=largest)
    assert np.abs(grid).max() <= largest
    ramp = np.broadcast_to(np.arange(200, dtype=np.float32), (200, 200))
    warped = np.asarray(Warp(displacements=grid)(Image.fromarray(ramp.copy())))
    inside = warped[20:-20, 20:-20]
    # Bicubic interpolation may overshoot the points by a little.
    assert np.abs(inside - ramp[20:-20, 20:-20]).max() <= 1.3 * largest * 200 + 1
    assert np.abs(np.diff(inside, axis=0)).max() < 2 and np.diff(inside, axis=1).min() > -1


@pytest.mark.parametrize("size", [1, 2, 5, 7])
def test_images_smaller_than_the_mesh(size: int) -> None:
    picture = Image.fromarray(np.full((size, size), 9, np.uint8))
    assert Warp(displacements=np.zeros((4, 4, 2)))(picture).size == (size, size)
