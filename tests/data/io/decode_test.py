import io
import warnings

import numpy as np
import pytest
from PIL import ExifTags, Image

from bt_jax.data.io import decode
from bt_jax.data.io.decode import ImageError, decode_first_frame, decode_image, encode_png


def encoded(image: Image.Image, image_format: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format=image_format, **options)
    return buffer.getvalue()


def ramp(height: int = 40, width: int = 60) -> np.ndarray:
    return np.linspace(0, 255, height * width).reshape(height, width).astype(np.uint8)


def smooth_colour() -> Image.Image:
    across, down = np.meshgrid(np.linspace(40, 200, 64), np.linspace(60, 180, 48))
    return Image.fromarray(np.stack([across, down, 240 - across], -1).astype(np.uint8))


@pytest.mark.parametrize("image_format", ["PNG", "BMP", "TIFF", "WEBP", "GIF", "PPM"])
def test_lossless_formats_give_the_grey_values_back(image_format):
    options = {"lossless": True} if image_format == "WEBP" else {}
    image = decode_image(encoded(Image.fromarray(ramp()), image_format, **options), name="x")
    assert image.dtype == np.uint8
    np.testing.assert_array_equal(image, ramp())


def test_grey_jpeg_stored_as_rgb_equals_pillows_grey():
    content = encoded(Image.fromarray(ramp()).convert("RGB"), "JPEG", quality=90)
    np.testing.assert_array_equal(
        decode_image(content, name="x"), np.asarray(Image.open(io.BytesIO(content)).convert("L"))
    )


@pytest.mark.parametrize("progressive", [False, True])
def test_colour_jpeg_becomes_itu_r_601_grey(progressive):
    content = encoded(smooth_colour(), "JPEG", quality=95, progressive=progressive)
    red, green, blue = np.moveaxis(np.asarray(smooth_colour(), np.float64), -1, 0)
    expected = 0.299 * red + 0.587 * green + 0.114 * blue
    np.testing.assert_allclose(decode_image(content, name="x"), expected, atol=4)


def test_cmyk_jpeg():
    content = encoded(smooth_colour().convert("CMYK"), "JPEG", quality=95)
    expected = np.asarray(smooth_colour().convert("L"), np.float64)
    np.testing.assert_allclose(decode_image(content, name="x"), expected, atol=6)


def test_16_bit_png_keeps_its_values():
    image = (np.arange(2400, dtype=np.uint16) * 27).reshape(40, 60)
    decoded = decode_image(encode_png(image), name="x")
    assert decoded.dtype == np.uint16
    np.testing.assert_array_equal(decoded, image)


def test_16_bit_tiff_of_either_byte_order():
    image = (np.arange(2400, dtype=np.uint16) * 27).reshape(40, 60)
    for mode, order in (("I;16", "<u2"), ("I;16B", ">u2")):
        content = encoded(Image.frombytes(mode, (60, 40), image.astype(order).tobytes()), "TIFF")
        decoded = decode_image(content, name="x")
        assert decoded.dtype == np.uint16
        np.testing.assert_array_equal(decoded, image)


def test_transparency_is_composited_over_black():
    alpha = Image.fromarray(np.tile(np.array([0, 255, 128], np.uint8), (4, 1)))
    for mode in ("LA", "RGBA"):
        image = Image.new(mode[:-1], alpha.size, 200 if mode == "LA" else (200, 200, 200))
        image.putalpha(alpha)
        for image_format in ("PNG", "TIFF"):
            decoded = decode_image(encoded(image, image_format), name="x")
            np.testing.assert_array_equal(decoded, np.tile([0, 200, 100], (4, 1)))


def test_palette_with_and_without_a_transparent_entry():
    palette = Image.fromarray(np.tile(np.array([0, 1, 2], np.uint8), (4, 1)))
    palette.putpalette([10, 10, 10, 90, 90, 90, 250, 250, 250])
    np.testing.assert_array_equal(decode_image(encoded(palette, "PNG"), name="x"), np.tile([10, 90, 250], (4, 1)))
    for transparency in (2, b"\xff\xff\x00"):
        content = encoded(palette, "PNG", transparency=transparency)
        np.testing.assert_array_equal(decode_image(content, name="x"), np.tile([10, 90, 0], (4, 1)))


def test_bilevel():
    mask = ramp() > 100
    content = encoded(Image.fromarray(mask), "PNG")
    np.testing.assert_array_equal(decode_image(content, name="x"), mask * np.uint8(255))


def test_first_frame_of_an_animation_and_of_a_stack():
    frames = [Image.fromarray(np.full((8, 8), value, np.uint8)) for value in (30, 220)]
    for image_format in ("GIF", "TIFF"):
        content = encoded(frames[0], image_format, save_all=True, append_images=frames[1:])
        assert (decode_image(content, name="x") == 30).all()


@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "TIFF", "WEBP"])
def test_exif_orientation_is_applied(image_format):
    upright = np.zeros((32, 48), np.uint8)
    upright[:8, :16] = 255  # a light top left corner
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6  # the camera was turned: show it turned clockwise by 90 degrees
    content = encoded(Image.fromarray(np.rot90(upright)), image_format, exif=exif)
    decoded = decode_image(content, name="x")
    assert decoded.shape == (32, 48)
    assert np.abs(decoded.astype(int) - upright).mean() < 8


def test_damaged_exif_does_not_hide_the_picture():
    content = encoded(Image.fromarray(ramp()), "PNG", exif=b"Exif\x00\x00not a header at all")
    np.testing.assert_array_equal(decode_image(content, name="x"), ramp())


def test_32_bit_images_are_scaled_by_their_own_range():
    values = np.array([[-1000.0, 0.0, 1000.0]], np.float32)
    for array in (values, values.astype(np.int32)):
        decoded = decode_image(encoded(Image.fromarray(array), "TIFF"), name="x")
        assert decoded.dtype == np.uint16
        np.testing.assert_array_equal(decoded, [[0, 32768, 65535]])


def test_float_images_without_a_range():
    for array, expected in (
        ([[np.nan, 1.0, 2.0]], [[0, 0, 65535]]),
        ([[-np.inf, np.inf, 1.0, 3.0]], [[0, 65535, 0, 65535]]),
        ([[np.nan, np.nan]], [[0, 0]]),
        ([[7.0, 7.0]], [[0, 0]]),
    ):
        content = encoded(Image.fromarray(np.array(array, np.float32)), "TIFF")
        np.testing.assert_array_equal(decode_image(content, name="x"), expected)


@pytest.mark.parametrize("options", [{}, {"progressive": True}])
@pytest.mark.parametrize("kept", [0.1, 0.5, 0.9, 0.999])
def test_truncated_jpeg_is_an_error_and_not_filled_up(options, kept):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64), np.uint8)
    content = encoded(Image.fromarray(noise), "JPEG", **options)
    with pytest.raises(ImageError, match="scan 7"):
        decode_image(content[: int(len(content) * kept)], name="scan 7")


@pytest.mark.parametrize("image_format", ["PNG", "BMP", "TIFF", "WEBP", "GIF"])
def test_truncated_files_of_other_formats_are_errors(image_format):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64), np.uint8)
    content = encoded(Image.fromarray(noise), image_format)
    with pytest.raises(ImageError), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow also warns about some of them
        decode_image(content[: len(content) // 2], name="x")


@pytest.mark.parametrize(
    ("content", "reason"), [(b"", "empty"), (b"just a text", "not an image"), (b"\xff\xd8\xff\xe0", "not an image")]
)
def test_what_is_no_image_is_named_on_one_line(content, reason):
    with pytest.raises(ImageError, match=reason) as caught:
        decode_image(content, name="notes.jpg")
    assert str(caught.value).startswith("notes.jpg: ")
    assert "\n" not in str(caught.value)


def test_every_damaged_byte_gives_an_image_or_an_image_error():
    generator = np.random.default_rng(1)
    originals = [
        encoded(Image.fromarray(ramp()), image_format) for image_format in ("JPEG", "PNG", "TIFF", "GIF", "BMP")
    ]
    errors = 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for content in originals:
            for position in generator.integers(0, min(len(content), 400), 80):
                damaged = bytearray(content)
                damaged[position] ^= int(generator.integers(1, 256))
                try:
                    assert decode_image(bytes(damaged), name="x").ndim == 2
                except ImageError:
                    errors += 1
    assert errors > 20


def test_pixel_limit(monkeypatch):
    content = encode_png(ramp())
    monkeypatch.setattr(decode, "MAX_PIXELS", 40 * 60)
    assert decode_image(content, name="x").shape == (40, 60)
    monkeypatch.setattr(decode, "MAX_PIXELS", 40 * 60 - 1)
    with pytest.raises(ImageError, match="60x40 pixels"):
        decode_image(content, name="x")


def test_a_limit_of_ones_own_and_whether_there_are_more_frames():
    content = encode_png(ramp())
    image, more = decode_first_frame(content, name="x", max_pixels=40 * 60)
    np.testing.assert_array_equal(image, ramp())
    assert not more
    with pytest.raises(ImageError, match="60x40 pixels are more than the limit of 2,399"):
        decode_first_frame(content, name="x", max_pixels=40 * 60 - 1)
    frames = [Image.fromarray(np.full((8, 8), value, np.uint8)) for value in (30, 220)]
    for image_format in ("GIF", "TIFF", "WEBP", "PNG"):
        content = encoded(frames[0], image_format, save_all=True, append_images=frames[1:])
        image, more = decode_first_frame(content, name="x")
        assert more and abs(image.astype(int) - 30).max() <= 3


@pytest.mark.parametrize("side", [8_100, 10_000, 60_000])
def test_decompression_bombs_are_refused_before_they_are_decoded(side):
    bitmap = bytearray(encoded(Image.new("L", (1, 1)), "BMP"))
    bitmap[18:26] = side.to_bytes(4, "little") * 2  # width and height in the header
    with pytest.raises(ImageError, match="limit of 64,000,000"):
        decode_image(bytes(bitmap), name="bomb.bmp")


def test_zero_size():
    with pytest.raises(ImageError):
        decode_image(b"P5 0 5 255\n", name="x")


def test_encode_png_refuses_what_is_not_grey():
    for image in (np.zeros((2, 2, 3), np.uint8), np.zeros((2, 2), np.float32)):
        with pytest.raises(ValueError, match="expected"):
            encode_png(image)


def test_suffixes_are_lower_case_and_cover_the_common_ones():
    assert {".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".gif"} <= decode.IMAGE_SUFFIXES
    assert all(suffix.startswith(".") and suffix == suffix.lower() for suffix in decode.IMAGE_SUFFIXES)
