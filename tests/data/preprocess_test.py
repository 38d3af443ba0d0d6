import os
import pathlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from bt_jax.common.errors import UsageError
from bt_jax.data.class_labels import BRAIN_TUMOR_CLASSES
from bt_jax.data.io.decode import decode_image
from bt_jax.data.phantoms.phantom import render
from bt_jax.data.preprocess import Preprocessing, find_head, scale_size

HEAD = Preprocessing(size=96)


def head_image(height: int = 200, width: int = 220, top: int = 40, left: int = 60, high: int = 120, wide: int = 90):
    """A bright ellipse with an inner structure on black; its bounding box is known."""
    down, across = np.mgrid[:height, :width]
    y, x = (down + 0.5 - top - high / 2) / (high / 2), (across + 0.5 - left - wide / 2) / (wide / 2)
    radius = np.hypot(x, y)
    image = np.where(radius < 1, 110 + 50 * np.sin(7 * x) * np.cos(5 * y), 0)
    return np.where((radius < 1) & (radius > 0.9), 220, image).astype(np.uint8)


def difference(first: np.ndarray, second: np.ndarray) -> float:
    return float(np.abs(first.astype(float) - second).mean())


def box_of(image: np.ndarray) -> tuple[float, float, float, float]:
    return find_head(Image.fromarray(image), margin=0.0)[0]


def test_the_box_is_the_head():
    np.testing.assert_allclose(box_of(head_image()), (60, 40, 150, 160), atol=3)


def test_noise_text_and_a_thin_line_do_not_widen_the_box():
    generator = np.random.default_rng(0)
    image = head_image().astype(float) + np.abs(generator.normal(0, 6, (200, 220)))
    image[3:12, 3:40] = np.where(generator.random((9, 37)) < 0.4, 255, 0)  # a line of text
    image[190, 5:215] = 200
    np.testing.assert_allclose(box_of(image.clip(0, 255).astype(np.uint8)), (60, 40, 150, 160), atol=4)


@pytest.mark.parametrize("width", [1, 3, 12])
def test_a_bright_frame_is_not_the_head(width):
    image = np.pad(head_image(), width, constant_values=250)
    np.testing.assert_allclose(box_of(image), (60 + width, 40 + width, 150 + width, 160 + width), atol=4)


def test_a_head_that_fills_the_frame_is_kept_whole():
    image = head_image(120, 90, 0, 0, 120, 90)
    np.testing.assert_allclose(box_of(image), (0, 0, 90, 120), atol=2)
    inside = image[30:90, 20:70]
    np.testing.assert_allclose(box_of(inside), (0, 0, 50, 60), atol=1)


def test_two_halves_with_a_dark_gap_are_one_head():
    image = head_image()
    image[:, 100:110] = 0
    np.testing.assert_allclose(box_of(image), (60, 40, 150, 160), atol=3)


def test_aspect_ratio_is_kept_and_the_head_is_centred():
    result = Preprocessing(size=100, margin=0.0)(head_image())
    rows, columns = np.flatnonzero((result > 60).any(1)), np.flatnonzero((result > 60).any(0))
    assert rows[0] <= 3 and rows[-1] >= 96
    assert abs((columns[-1] - columns[0]) / (rows[-1] - rows[0]) - 90 / 120) < 0.04
    assert abs((columns[0] + columns[-1]) / 2 - 49.5) < 2


def test_percentiles_span_the_full_range():
    result = HEAD((head_image() * 0.3).astype(np.uint8))
    assert result.min() == 0 and result.max() == 255


@settings(deadline=None, max_examples=25)
@given(
    top=st.integers(0, 150), bottom=st.integers(0, 150), left=st.integers(0, 150), right=st.integers(0, 150),
    index=st.integers(0, 3),
)  # fmt: skip
def test_a_black_border_changes_little(top, bottom, left, right, index):
    image = render(4 * index, label=BRAIN_TUMOR_CLASSES[index], seed=11).image
    padded = np.pad(image, ((top, bottom), (left, right)))
    moved = np.subtract(box_of(padded), box_of(image)) - (left, top, left, top)
    assert np.abs(moved).max() < 0.025 * max(image.shape)
    result = HEAD(image)
    # The result is less different than if the head had moved by 2 of the 96 pixels.
    assert difference(HEAD(padded), result) < difference(result, np.roll(result, 2, axis=(0, 1)))


def test_a_tight_crop_gives_the_same_as_a_wide_border():
    image = head_image()
    tight = image[40:160, 60:150]
    assert difference(HEAD(tight), HEAD(np.pad(image, 100))) < 4


@settings(deadline=None, max_examples=25)
@given(factor=st.floats(0.4, 1.0), offset=st.integers(0, 60), index=st.integers(0, 3))
def test_a_linear_change_of_intensity_changes_little(factor, offset, index):
    image = render(2 * index, label=BRAIN_TUMOR_CLASSES[index], seed=12).image * (190 / 255)
    changed = np.rint(image * factor + offset).astype(np.uint8)
    assert difference(HEAD(changed), HEAD(image.astype(np.uint8))) < 4


@settings(deadline=None, max_examples=60)
@given(
    height=st.integers(1, 90), width=st.integers(1, 90), size=st.integers(1, 70), seed=st.integers(0, 9),
    kind=st.sampled_from(["noise", "zero", "full", "spot", "binary"]), deep=st.booleans(),
    form=st.sampled_from(["head", "stretch"]),
)  # fmt: skip
def test_any_image_gives_the_right_shape_and_dtype(height, width, size, seed, kind, deep, form):
    generator = np.random.default_rng(seed)
    top = 65535 if deep else 255
    image = {
        "noise": generator.integers(0, top + 1, (height, width)),
        "zero": np.zeros((height, width)),
        "full": np.full((height, width), top),
        "spot": np.pad([[top]], ((0, height - 1), (0, width - 1))),
        "binary": generator.integers(0, 2, (height, width)) * top,
    }[kind].astype(np.uint16 if deep else np.uint8)
    result = Preprocessing(form=form, size=size)(image)
    assert result.shape == (size, size) and result.dtype == np.uint8


@pytest.mark.parametrize("shape", [(1, 5000), (5000, 1), (2, 900), (1, 1)])
@pytest.mark.parametrize("form", ["head", "stretch"])
def test_extreme_aspect_ratios(shape, form):
    image = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    assert Preprocessing(form=form, size=32)(image).shape == (32, 32)


def test_16_bits_give_the_same_as_8():
    image = head_image()
    deep = image.astype(np.uint16) * 40
    assert difference(HEAD(deep), HEAD(image)) < 1
    assert difference(Preprocessing(form="stretch", size=64)(deep), Preprocessing(form="stretch", size=64)(image)) < 40
    brightest = Preprocessing(form="stretch", size=64)(np.full((9, 9), 300, np.uint16))
    assert (brightest == 255).all()


def test_a_hot_pixel_does_not_flatten_a_16_bit_image():
    deep = head_image().astype(np.uint16) * 4
    hot = deep.copy()
    hot[100, 100] = 65535
    assert difference(HEAD(hot), HEAD(deep)) < 3


def test_stretch_ignores_the_aspect_and_keeps_8_bit_intensities():
    result = Preprocessing(form="stretch", size=50)(np.full((20, 77), 93, np.uint8))
    assert (result == 93).all()
    image = head_image(50, 50, 5, 5, 40, 40)
    np.testing.assert_array_equal(Preprocessing(form="stretch", size=50)(image), image)


def test_wrong_arrays_are_refused():
    for image in (np.zeros((4, 4, 3), np.uint8), np.zeros((4, 4)), np.zeros((0, 4), np.uint8)):
        with pytest.raises(ValueError, match="expected"):
            HEAD(image)


def test_round_trip_as_plain_values():
    settings_ = Preprocessing(form="stretch", size=128, lower_percentile=2, upper_percentile=98, margin=0.1)
    assert Preprocessing.from_dict(settings_.to_dict()) == settings_
    assert Preprocessing.from_dict({}) == Preprocessing()


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"form": "crop"}, "form"),
        ({"size": 0}, "size"),
        ({"size": 64.0}, "size"),
        ({"size": True}, "size"),
        ({"lower_percentile": 99.5}, "lower_percentile"),
        ({"upper_percentile": 101}, "upper_percentile"),
        ({"lower_percentile": float("nan")}, "lower_percentile"),
        ({"margin": "wide"}, "margin"),
        ({"margin": -0.1}, "margin"),
        ({"colour": 3}, "colour"),
    ],
)
def test_wrong_fields_are_named(values, named):
    with pytest.raises(UsageError, match=named):
        Preprocessing.from_dict(values)


@pytest.mark.real_data
def test_real_heads_are_found_whole():
    """Of what is clearly brighter than the background, the crop keeps nearly all; and it fills the square."""
    paths = sorted(pathlib.Path(os.environ["BT_DATA"]).glob("Training/*/*"))[::40]
    assert len(paths) > 20
    shares = []
    for path in paths:
        image = decode_image(path.read_bytes(), name=path.name)
        left, top, right, bottom = find_head(Image.fromarray(image), margin=0.02)[0]
        background, bright = np.percentile(image, (12.5, 98))
        above = np.maximum(image - background - 0.1 * (bright - background), 0)
        kept = above[max(0, int(top)) : int(np.ceil(bottom)), max(0, int(left)) : int(np.ceil(right))].sum()
        shares.append(kept / above.sum())
        result = HEAD(image)
        assert max(result.any(0).sum(), result.any(1).sum()) >= 88, path.name
    assert min(shares) > 0.9  # what is lost is a scalp of one thumbnail pixel
    assert np.quantile(shares, 0.1) > 0.98


@pytest.mark.parametrize(
    ("size", "scale", "expected"),
    [(240, 1.13, 272), (240, 1.2, 288), (160, 1.13, 176), (96, 1.5, 144), (250, 1.0, 250)],
)
def test_a_scaled_side_is_a_multiple_of_16(size, scale, expected):
    assert scale_size(size, scale) == expected
