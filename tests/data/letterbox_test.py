import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bt_jax.data.letterbox import Letterbox
from bt_jax.data.phantoms.phantom import render
from bt_jax.data.preprocess import Preprocessing

# The middle 40 x 20 pixels of an image, enlarged to 80 x 40 in the middle of a square.
CENTRED = Letterbox(frame=(60, 40), seen=(10, 10, 50, 30), corner=(8, 28), extent=(80, 40), size=96)


def disc(height: int, width: int, *, x: float, y: float, radius: float) -> np.ndarray:
    """A grey head that fills most of the frame, with a bright disc at a point."""
    down, across = np.mgrid[:height, :width] + 0.5
    head = np.hypot((across - width / 2) / (0.42 * width), (down - height / 2) / (0.42 * height)) < 1
    return np.where(np.hypot(across - x, down - y) < radius, 255, np.where(head, 90, 0)).astype(np.uint8)


def centre_of_bright(image: np.ndarray) -> np.ndarray:
    """(x, y) of the middle of what is brightest."""
    down, across = np.nonzero(image > 0.9 * image.max())
    return np.array((across.mean() + 0.5, down.mean() + 0.5))


def to_square(letterbox: Letterbox, points: np.ndarray) -> np.ndarray:
    """Points (x, y) of the image [..., 2] as points of the square."""
    left, top, right, bottom = letterbox.seen
    scale = np.array(letterbox.extent) / np.array((right - left, bottom - top))
    return (np.asarray(points, np.float64) - (left, top)) * scale + letterbox.corner


def test_a_ramp_comes_back_as_itself():
    """Bilinear values are exact for what is linear: each pixel of the image gets the place it came from."""
    down, across = np.mgrid[:96, :96] + 0.5
    for ramp, axis in ((across, 0), (down, 1)):
        found = CENTRED.map_to_image(ramp)
        points = np.stack(np.meshgrid(np.arange(60) + 0.5, np.arange(40) + 0.5), axis=-1)
        expected = to_square(CENTRED, points)[..., axis]
        # Half a pixel of the square at the rectangle's edge has no centre beyond it to be mixed with.
        inside = (slice(11, 29), slice(11, 49))
        np.testing.assert_allclose(found[inside], expected[inside], rtol=1e-5)


def test_what_was_not_seen_is_0_and_the_black_around_is_not_mixed_in():
    found = CENTRED.map_to_image(np.ones((96, 96), np.float32))
    expected = np.zeros((40, 60), np.float32)
    expected[10:30, 10:50] = 1
    np.testing.assert_allclose(found, expected, atol=1e-6)
    around = np.ones((96, 96), np.float32)
    around[28:68, 8:88] = 0
    assert CENTRED.map_to_image(around).max() == 0


@settings(max_examples=25, deadline=None)
@given(
    size=st.integers(32, 128),
    height=st.integers(90, 300),
    width=st.integers(90, 300),
    place=st.tuples(st.floats(0.35, 0.65), st.floats(0.35, 0.65)),
    form=st.sampled_from(["head", "stretch"]),
)
def test_a_mark_lies_where_the_letterbox_says(size, height, width, place, form):
    """In the square that preprocessing makes, and from there back on the image's own pixels."""
    x, y = place[0] * width, place[1] * height
    image = disc(height, width, x=x, y=y, radius=0.07 * min(height, width))
    preprocessing = Preprocessing(form=form, size=size)
    square, letterbox = preprocessing.letterbox(image)
    np.testing.assert_array_equal(square, preprocessing(image))
    marked = centre_of_bright(image)
    scale = np.array(letterbox.extent) / np.array(
        (letterbox.seen[2] - letterbox.seen[0], letterbox.seen[3] - letterbox.seen[1])
    )
    np.testing.assert_allclose(to_square(letterbox, marked), centre_of_bright(square), atol=0.75 + 0.5 * scale.max())
    back = letterbox.map_to_image(square)
    assert back.shape == image.shape
    np.testing.assert_allclose(centre_of_bright(back), marked, atol=0.75 + 0.75 / scale.min())


def test_a_phantom_comes_back_as_it_was():
    """Enlarged, so that nothing is lost, and with the intensities that preprocessing gives them."""
    image = render(0, label="glioma_tumor", seed=3).image
    square, letterbox = Preprocessing(size=512).letterbox(image)
    left, top, right, bottom = (round(edge) for edge in letterbox.seen)
    back = letterbox.map_to_image(square)[top + 2 : bottom - 2, left + 2 : right - 2]
    there = image[top + 2 : bottom - 2, left + 2 : right - 2].astype(float)
    assert np.corrcoef(back.ravel(), there.ravel())[0, 1] > 0.98


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 40), (40, 1), (3, 200)])
def test_tiny_and_narrow_images(height, width):
    image = np.full((height, width), 100, np.uint8)
    square, letterbox = Preprocessing(size=32).letterbox(image)
    back = letterbox.map_to_image(np.ones(square.shape, np.float32))
    assert back.shape == image.shape
    assert back.max() <= 1 + 1e-6 and back.mean() > 0.5


def test_the_square_without_the_frame_is_all_of_the_image():
    """Stretching sees the whole frame, whatever its shape."""
    _, letterbox = Preprocessing(form="stretch", size=48).letterbox(np.zeros((30, 70), np.uint8))
    assert letterbox.map_to_image(np.ones((48, 48))).min() == pytest.approx(1)
