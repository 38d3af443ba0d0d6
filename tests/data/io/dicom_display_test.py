"""DICOM pixels as a viewer displays them: rescaling, windows, tables, padding and colours."""

import numpy as np
import pydicom
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image
from pydicom.dataset import Dataset

from bt_jax.data.io import dicom_display, file_reader
from bt_jax.data.io.slices import UnreadableError
from tests import hostile_inputs, medical_files
from tests.data.io.dicom_test import DEEP, GREY, one
from tests.medical_files import dicom, table

# pydicom warns of unusual files; in a command these warnings are silenced: see `dicom._import_pydicom`.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


@pytest.mark.parametrize(
    ("value", "expected"),
    [(5, 5), ("7", 7), ([3, 4], 3), ([], -1), (None, -1), ("x", -1), (2.5, -1), ("1e400", -1), ("nan", -1), (-2.0, -2)],
)
def test_tags_are_parsed_as_integers(value, expected):
    assert dicom_display.parse_whole(value) == expected


def test_an_empty_table_is_refused():
    empty = table(np.zeros(0), first=0, bits=8)
    with pytest.raises(UnreadableError, match="a lookup table of grey values in the DICOM file is invalid"):
        dicom_display._apply_table(empty, np.zeros((2, 2)), medical_files.dataset(GREY))


def test_a_window_over_all_of_8_bits_changes_nothing():
    for tags in ({}, {"VOILUTFunction": "LINEAR"}, {"RescaleSlope": "1", "RescaleIntercept": "0"}):
        np.testing.assert_array_equal(one(dicom(GREY, WindowCenter=128, WindowWidth=256, **tags)).image, GREY)


@given(
    arrays.arrays(st.sampled_from(["u1", "<u2", "<i2"]), arrays.array_shapes(min_dims=2, max_dims=2, max_side=5)),
    st.fixed_dictionaries(
        {},
        optional={
            "RescaleSlope": st.sampled_from(["1", "0", "-1", "0.001", "1e30", "-1e300", "", "2.5"]),
            "RescaleIntercept": st.sampled_from(["0", "-1024", "1e300", "", "0.5"]),
            "WindowCenter": st.sampled_from(["0", "40", "-1e9", "1e300", "", "127.5"]),
            "WindowWidth": st.sampled_from(["0", "1", "-5", "400", "1e-300", "1e300", ""]),
            "VOILUTFunction": st.sampled_from(["LINEAR", "LINEAR_EXACT", "SIGMOID", "ODD", ""]),
            "PhotometricInterpretation": st.sampled_from(["MONOCHROME1", "MONOCHROME2"]),
            "PixelPaddingValue": st.sampled_from([0, 5]),
        },
    ),
)
def test_whatever_the_tags_say_there_is_a_picture(pixels, tags):
    found = one(dicom(pixels, **tags))
    assert found.image.shape == pixels.shape and found.image.dtype in (np.uint8, np.uint16)


@pytest.mark.parametrize("function", ["LINEAR", "LINEAR_EXACT", "SIGMOID"])
@pytest.mark.parametrize(("slope", "intercept"), [(1, 0), (0.5, -100), (2, 30)])
def test_windows_are_those_of_pydicom(function, slope, intercept):
    tags = {"WindowCenter": 900, "WindowWidth": 1500, "VOILUTFunction": function, "BitsStored": 12, "HighBit": 11,
            "RescaleSlope": str(slope), "RescaleIntercept": str(intercept)}  # fmt: skip
    made = medical_files.dataset(DEEP, **tags)
    measured = pydicom.pixels.apply_modality_lut(DEEP, made)
    expected = pydicom.pixels.apply_windowing(measured, made)
    low, high = intercept, 4095 * slope + intercept  # to what pydicom stretches a window
    image = one(medical_files.encoded(made)).image
    assert image.dtype == np.uint8
    np.testing.assert_allclose(image, (expected - low) / (high - low) * 255, atol=0.5 + 1e-6)


def test_a_window_that_cuts_nothing_off_changes_nothing():
    for tags in ({}, {"VOILUTFunction": "LINEAR_EXACT"}):
        np.testing.assert_array_equal(one(dicom(DEEP, WindowCenter=2048, WindowWidth=4096, **tags)).image, DEEP)
    assert one(dicom(DEEP, WindowCenter=1024, WindowWidth=2048)).image.dtype == np.uint8


def test_the_first_of_several_windows_counts():
    several = one(dicom(DEEP, WindowCenter=[900, 5], WindowWidth=[1500, 10])).image
    np.testing.assert_array_equal(several, one(dicom(DEEP, WindowCenter=900, WindowWidth=1500)).image)


def test_a_window_that_shows_nothing_is_not_used():
    for centre, width in ((-5000, 10), (900, 0), (900, -4)):
        found = one(dicom(DEEP, WindowCenter=centre, WindowWidth=width))
        np.testing.assert_array_equal(found.image, DEEP)
        assert found.warnings == (
            "The window in the file shows nothing of the image, so the full range of values was used.",
        )
    assert set(np.unique(one(dicom(DEEP, WindowCenter=900, WindowWidth=1)).image)) == {0, 255}


def test_monochrome1_is_inverted():
    inverted = {"PhotometricInterpretation": "MONOCHROME1"}
    np.testing.assert_array_equal(one(dicom(255 - GREY, **inverted)).image, GREY)
    np.testing.assert_array_equal(one(dicom(255 - GREY, WindowCenter=128, WindowWidth=256, **inverted)).image, GREY)
    np.testing.assert_array_equal(one(dicom(4095 - DEEP, **inverted)).image, DEEP - DEEP.min())


def test_tables_of_the_modality_and_of_the_display():
    curve = (np.arange(256) ** 1.5).astype(np.uint16)
    modality = one(dicom(GREY, ModalityLUTSequence=[table(curve, first=0, bits=16)])).image
    np.testing.assert_array_equal(modality, curve[GREY])
    display = one(dicom(GREY, VOILUTSequence=[table(np.arange(256)[::-1], first=0, bits=8)])).image
    np.testing.assert_array_equal(display, 255 - GREY)
    # What lies outside takes the first or last entry.
    few = one(dicom(GREY, VOILUTSequence=[table(np.array([3, 9]), first=100, bits=4)])).image
    np.testing.assert_array_equal(few, np.where(GREY <= 100, 3 * 17, 9 * 17))


def test_places_without_a_measurement_are_dark():
    empty = GREY < 10
    stored = np.where(empty, -2000, GREY.astype(np.int16)).astype(np.int16)
    image = one(dicom(stored, PixelPaddingValue=-2000)).image
    np.testing.assert_array_equal(image, np.where(empty, GREY[~empty].min(), GREY))


@pytest.mark.parametrize(("value", "limit"), [(-2000, -1990), (-1990, -2000)])
def test_padding_may_be_a_range(value, limit):
    empty = GREY < 10
    stored = np.where(empty, -2000 + GREY.astype(np.int16) % 7, GREY.astype(np.int16)).astype(np.int16)
    image = one(dicom(stored, PixelPaddingValue=value, PixelPaddingRangeLimit=limit)).image
    np.testing.assert_array_equal(image, np.where(empty, GREY[~empty].min(), GREY))


@pytest.mark.parametrize("tags", [{}, {"PlanarConfiguration": 1}])
def test_colours_become_grey_as_in_a_png(tags):
    colour = np.stack([GREY, GREY[::-1], 255 - GREY], -1)
    stored = np.ascontiguousarray(np.moveaxis(colour, -1, 0)) if tags else colour
    made = medical_files.dataset(colour, **tags)
    made.PixelData = stored.tobytes()
    png = hostile_inputs.image(Image.fromarray(colour))
    np.testing.assert_array_equal(one(medical_files.encoded(made)).image, one(png).image)


def test_frames_have_their_own_rescaling_and_share_a_window():
    frames = np.stack([GREY // 4, GREY // 4])
    shared, window, own = Dataset(), Dataset(), []
    window.WindowCenter, window.WindowWidth = 128, 256
    shared.FrameVOILUTSequence = [window]
    for slope in (1, 4):
        item, values = Dataset(), Dataset()
        values.RescaleSlope, values.RescaleIntercept = slope, 0
        item.PixelValueTransformationSequence = [values]
        own.append(item)
    content = dicom(frames, frames=2, SharedFunctionalGroupsSequence=[shared], PerFrameFunctionalGroupsSequence=own)
    first, second = (slice_.image for slice_ in file_reader.read_slices(content))
    np.testing.assert_array_equal(first, GREY // 4)
    np.testing.assert_array_equal(second, GREY // 4 * 4)
