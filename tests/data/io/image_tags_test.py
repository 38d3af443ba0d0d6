"""TIFF, PNG and JPEG files of every kind of pixels: right, or an error that says so, and never wrong."""

import io

import numpy as np
import pytest
from PIL import ExifTags, Image

from bt_jax.data.io import file_reader
from bt_jax.data.io.decode import ImageError, decode_image
from bt_jax.data.io.slices import UnreadableError
from tests.hostile_inputs import image as encode
from tests.tiff_files import png, tiff

ROWS, COLUMNS = np.mgrid[0:24, 0:32]
RAMP = (ROWS * 1.4 + COLUMNS) / (23 * 1.4 + 31)  # [24, 32] from 0 to 1, different in every direction
REFUSED = "cannot be decoded here: save it as grey"


def make_values(dtype: str) -> np.ndarray:
    """A ramp over most of the range of a dtype, both signs included."""
    kind = np.dtype(dtype)
    if kind.kind == "f":
        return ((RAMP - 0.3) * 700).astype(kind)
    low, high = np.iinfo(kind).min, np.iinfo(kind).max
    return (low * 0.4 + RAMP * (high * 0.9 - low * 0.4)).astype(kind)


def scale(values: np.ndarray) -> np.ndarray:
    values = values.astype(np.float64)
    return (values - values.min()) / np.ptp(values)


def check(content: bytes, expected: np.ndarray) -> None:
    """Checks that a file is decoded as the expected brightness, from its darkest to its lightest pixel."""
    found = decode_image(content, name="x")
    assert found.shape == expected.shape
    np.testing.assert_allclose(scale(found), scale(expected), atol=0.004)


def check_share_of_white(content: bytes, expected: np.ndarray) -> None:
    """Checks the brightness of a file on a scale from 0, black, to 1, white."""
    found = decode_image(content, name="x")
    np.testing.assert_allclose(found / np.iinfo(found.dtype).max, expected, atol=0.012)


def is_refused(content: bytes) -> bool:
    with pytest.raises(ImageError, match=REFUSED):
        decode_image(content, name="x")
    return True


# What Pillow cannot read at all: type, photometric interpretation, byte order.
UNREAD = {
    *((dtype, photometric, order) for dtype in ("f2", "f8", "u8") for photometric in (0, 1) for order in "<>"),
    *((dtype, 0, order) for dtype in ("i1", "i2", "i4", "u4") for order in "<>"),
    ("u2", 0, ">"),
    ("u4", 1, ">"),
}


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("photometric", [0, 1])
@pytest.mark.parametrize("dtype", ["u1", "i1", "u2", "i2", "u4", "i4", "f2", "f4", "f8", "u8"])
def test_grey_tiff_of_every_type_is_right_or_refused(dtype, photometric, order, packed):
    values = make_values(dtype)
    content = tiff(values, photometric=photometric, order=order, packed=packed)
    if (dtype, photometric, order) in UNREAD:
        assert is_refused(content)
    else:
        check(content, values.astype(np.float64) * (1 if photometric else -1))


def test_integers_keep_their_values_where_they_fit():
    unsigned = make_values("u2")
    np.testing.assert_array_equal(decode_image(tiff(unsigned, photometric=0), name="x"), 65535 - unsigned)
    signed = make_values("i1")
    np.testing.assert_array_equal(decode_image(tiff(signed), name="x"), signed.astype(int) - signed.min())
    positive = (RAMP * 127).astype(np.int8)
    np.testing.assert_array_equal(decode_image(tiff(positive), name="x"), positive)


@pytest.mark.parametrize("planes", [False, True])
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("dtype", ["u1", "u2"])
@pytest.mark.parametrize(
    ("samples", "photometric", "extra"),
    [(3, 2, ()), (4, 2, (0,)), (4, 2, (1,)), (4, 2, (2,)), (2, 1, (0,)), (2, 1, (1,)), (2, 1, (2,)), (3, 1, (0, 0)),
     (2, 0, (0,)), (4, 5, ())],
)  # fmt: skip
def test_tiff_of_several_samples_is_right_or_refused(samples, photometric, extra, dtype, order, packed, planes):
    """Without an exception to the rule: whatever Pillow decodes has the brightness of the samples."""
    top = np.iinfo(dtype).max
    alpha = 0.4 + 0.6 * RAMP[::-1]
    colours = [RAMP, RAMP[:, ::-1], RAMP[::-1]][: samples - len(extra)]
    if photometric == 5:
        colours = [*colours[:3], RAMP * 0.5]
    premultiplied = [colour * (alpha if extra == (1,) else 1) for colour in colours]
    stored = np.stack([*premultiplied, *([alpha] * len(extra))], -1)[..., :samples]
    if photometric == 5:
        expected = (1 - stored[..., :3]) @ (0.299, 0.587, 0.114) * (1 - stored[..., 3])
    else:
        grey = stored[..., :3] @ (0.299, 0.587, 0.114) if photometric == 2 else stored[..., 0]
        expected = (grey if photometric else 1 - grey) * (alpha if extra == (2,) else 1)
    content = tiff(
        np.rint(stored * top).astype(dtype),
        photometric=photometric,
        extra=extra,
        order=order,
        packed=packed,
        planes=planes,
    )
    try:
        decode_image(content, name="x")
    except ImageError as error:
        assert REFUSED in str(error)
        common = dtype == "u1" and not planes and photometric in (2, 5)
        assert not common, error
        return
    check_share_of_white(content, expected)


def test_ycbcr_without_compression_must_not_be_subsampled():
    values = np.stack([np.rint(RAMP * 255), np.full(RAMP.shape, 128), np.full(RAMP.shape, 128)], -1).astype(np.uint8)
    assert is_refused(tiff(values, photometric=6))  # 2x2 is what no tag means


@pytest.mark.parametrize("scale_of_entries", [1, 257])
def test_palettes_of_8_and_16_bits(scale_of_entries):
    entries = [255 - k for k in range(256)] * 3
    values = np.rint(RAMP * 255).astype(np.uint8)
    content = tiff(values, photometric=3, colours=[entry * scale_of_entries for entry in entries])
    np.testing.assert_array_equal(decode_image(content, name="x"), 255 - values)


def test_orientation_is_applied_to_corrected_values():
    values = make_values("u2")
    content = tiff(values, photometric=0, tag_274=6)
    np.testing.assert_array_equal(decode_image(content, name="x"), np.rot90(65535 - values, -1))
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    deep = io.BytesIO()
    Image.fromarray(values).save(deep, "PNG", exif=exif, transparency=int(values[3, 3]))
    expected = np.where(values == values[3, 3], 0, values)
    np.testing.assert_array_equal(decode_image(deep.getvalue(), name="x"), np.rot90(expected, -1))


def test_formats_of_samples_that_mean_nothing_are_refused():
    for sample_format in (4, 5, 6):  # undefined, complex
        assert is_refused(tiff(make_values("u2"), tag_339=sample_format))
    for photometric in (4, 8, 32803, 34892):  # a mask, Lab, a camera's raw data
        assert is_refused(tiff(make_values("u2"), photometric=photometric))


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
@pytest.mark.parametrize("transparent", [False, True])
def test_grey_png_of_every_depth(bits, transparent):
    values = np.rint(RAMP * (2**bits - 1)).astype(np.uint16)
    level = 2**bits - 1  # the lightest becomes transparent, thus black
    content = png(values, bits=bits, transparent=[level] if transparent else ())
    expected = np.where(values == level, 0, values) if transparent else values
    factor = 255 // (2**bits - 1) if bits < 8 else 1
    np.testing.assert_array_equal(decode_image(content, name="x"), expected * factor)


@pytest.mark.parametrize(("colour", "samples"), [(2, 3), (4, 2), (6, 4)])
@pytest.mark.parametrize("bits", [8, 16])
def test_png_of_colours_and_with_alpha(bits, colour, samples):
    alpha = 0.4 + 0.6 * RAMP[::-1]
    grey = [RAMP, RAMP[:, ::-1], RAMP[::-1]][: 3 if colour & 2 else 1]
    stored = np.stack([*grey, alpha], -1)[..., :samples]
    light = stored[..., :3] @ (0.299, 0.587, 0.114) if colour & 2 else RAMP
    content = png(np.rint(stored * (2**bits - 1)), bits=bits, colour=colour)
    check_share_of_white(content, light * (alpha if colour & 4 else 1))


def test_colours_of_16_bits_in_the_lower_bits_are_refused():
    dark = np.rint(np.stack([RAMP] * 3, -1) * 4095)  # 12 bits, as cameras and converters store them
    assert is_refused(png(dark, bits=16, colour=2))
    assert is_refused(tiff(dark.astype(np.uint16), photometric=2))
    with pytest.raises(ImageError, match="a transparent colour, which cannot be decoded here"):
        decode_image(png(dark * 16, bits=16, colour=2, transparent=[0, 0, 0]), name="x")


@pytest.mark.parametrize(("marker", "bits"), [(0xC1, 12), (0xC0, 12), (0xC3, 8), (0xC3, 16), (0xCB, 12)])
def test_rare_kinds_of_jpeg_are_not_called_damaged(marker, bits):
    content = bytearray(encode(kind="JPEG"))
    place = content.index(b"\xff\xc0")
    content[place + 1], content[place + 4] = marker, bits
    for reason in (decode_image, lambda data, name: list(file_reader.read_slices(data))):
        with pytest.raises((ImageError, UnreadableError), match="which cannot be decoded here: save it as PNG"):
            reason(bytes(content), name="x")


@pytest.mark.parametrize("highest", [1, 100, 255, 1023, 4095, 65535])
def test_pgm_of_every_depth_keeps_its_black(highest):
    values = np.rint((0.2 + 0.7 * RAMP) * highest).astype(">u2")
    stored = values.tobytes() if highest > 255 else values.astype(np.uint8).tobytes()
    check_share_of_white(b"P5 32 24 %d\n" % highest + stored, values / highest)


def test_big_tiff_is_recognised():
    assert file_reader.is_recognised(b"II+\0\x08\0\0\0" + bytes(400))
    assert file_reader.is_recognised(b"MM\0+\0\x08\0\0" + bytes(400))


def test_big_tiff_with_the_largest_byte_first_is_said_to_be_of_a_rare_kind():
    """Pillow takes its header for that of a classic TIFF."""
    with pytest.raises(ImageError, match="TIFF"):
        decode_image(b"MM\0+\0\x08\0\0" + bytes(400), name="big.tif")
