import math
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from bt_jax.data.io.slices import Limits, UnreadableError, check_size, compact, convert_to_grey, inflate, make_square

SHAPES = arrays.array_shapes(min_dims=2, max_dims=2, max_side=6)


@given(arrays.arrays(st.sampled_from(["u1", "i1", "u2", "<i2", ">i2", "i4", "u4", "i8", "u8"]), SHAPES))
def test_whole_numbers_keep_their_order_and_where_they_fit_their_distances(values):
    grey = convert_to_grey(values)
    assert grey.shape == values.shape
    spread = int(values.max()) - min(int(values.min()), 0)
    if spread <= 65535:
        moved = values.astype(object) - min(int(values.min()), 0)
        factor = 1 if spread <= 255 else math.gcd(*moved.ravel())
        assert grey.dtype == (np.uint8 if spread // factor <= 255 else np.uint16)
        np.testing.assert_array_equal(grey.astype(object) * (factor if grey.dtype == np.uint8 else 1), moved)
    else:
        order = np.argsort(values, axis=None, kind="stable")
        assert (np.diff(grey.ravel()[order].astype(int)) >= 0).all()


@given(arrays.arrays(st.sampled_from(["f2", "f4", "f8"]), SHAPES))
def test_any_floats_become_grey(values):
    grey = convert_to_grey(values)
    assert grey.shape == values.shape and grey.dtype in (np.uint8, np.uint16)


def test_whole_floats_are_whole_numbers():
    np.testing.assert_array_equal(convert_to_grey(np.array([[0.0, 7.0]])), np.array([[0, 7]], np.uint8))
    np.testing.assert_array_equal(convert_to_grey(np.array([[-2.0, -1, 700.0]])), np.array([[0, 1, 702]], np.uint16))
    np.testing.assert_array_equal(
        convert_to_grey(np.array([[0.0, 0.25, 1.0]])), np.array([[0, 16384, 65535]], np.uint16)
    )


def test_8_bits_are_found_in_16():
    image = np.arange(256, dtype=np.uint16).reshape(16, 16)
    for factor in (1, 16, 256, 257):
        assert compact(image * factor).dtype == np.uint8
        np.testing.assert_array_equal(compact(image * np.uint16(factor)), image)
    finer = image * 16 + 1
    assert compact(finer) is finer
    np.testing.assert_array_equal(compact(np.zeros((2, 2), np.uint16)), np.zeros((2, 2), np.uint8))


def test_limits_are_checked_before_anything_is_made():
    limits = Limits(pixels=100, slices=5)
    check_size(width=10, height=10, slices=5, limits=limits)
    for width, height, slices, said in ((10, 11, 1, "10x11 pixels"), (10, 10, 6, "6 slices"), (0, 9, 1, "no pixels"),
                                        (-9, -9, 1, "no pixels"), (9, 9, 0, "no pixels")):  # fmt: skip
        with pytest.raises(UnreadableError, match=said):
            check_size(width=width, height=height, slices=slices, limits=limits)


def test_no_more_is_unpacked_than_is_allowed():
    packed = b"??" + zlib.compress(bytes(1000))
    assert inflate(packed, window_bits=15, limits=Limits(unpacked_bytes=1000), start=2) == bytes(1000)
    with pytest.raises(UnreadableError, match="more than the limit of 999 bytes"):
        inflate(packed, window_bits=15, limits=Limits(unpacked_bytes=999), start=2)
    with pytest.raises(UnreadableError, match="truncated"):
        inflate(packed[:-3], window_bits=15, limits=Limits(), start=2)
    with pytest.raises(UnreadableError, match="damaged"):
        inflate(packed, window_bits=15, limits=Limits())


def test_pixels_become_square_by_interpolation_along_the_longer_side():
    image = np.arange(12, dtype=np.uint16).reshape(3, 4) * 5000
    tall, remarks = make_square(image, aspect=2.0, limits=Limits())
    assert tall.shape == (6, 4) and tall.dtype == np.uint16 and remarks == ()
    np.testing.assert_array_equal(tall[[0, -1]], image[[0, -1]])
    assert (np.diff(tall.astype(int), axis=0) >= 0).all()
    wide, _ = make_square(image, aspect=0.5, limits=Limits())
    assert wide.shape == (3, 8)
    constant = np.full((5, 7), 65535, np.uint16)
    assert (make_square(constant, aspect=1.7, limits=Limits())[0] == 65535).all()


@pytest.mark.parametrize("aspect", [None, 1.0, 0.995, 1.009, float("nan")])
def test_square_pixels_are_left_as_they_are(aspect):
    image = np.arange(12, dtype=np.uint8).reshape(3, 4)
    assert make_square(image, aspect=aspect, limits=Limits())[0] is image


@given(st.floats(1e-3, 1e3), st.integers(1, 40), st.integers(1, 40))
def test_square_pixels_keep_within_the_limits(aspect, height, width):
    limits = Limits(pixels=height * width)
    image, remarks = make_square(np.zeros((height, width), np.uint8), aspect=aspect, limits=limits)
    assert image.size <= limits.pixels + height + width
    assert [text.code for text in remarks] == (["odd_spacing"] if not 1 / 20 <= aspect <= 20 else [])
