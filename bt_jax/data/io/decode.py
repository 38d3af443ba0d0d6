"""Decoding of image files in common formats to grey arrays, with one clear line if that fails."""

import io
import struct
import warnings

import numpy as np
from PIL import ExifTags, Image, ImageChops, ImageOps

from bt_jax.common.messages import Message
from bt_jax.data.io import image_tags

# Suffixes, in lower case, that count as images by name.
IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".jpe", ".png", ".bmp", ".tif", ".tiff", ".webp", ".gif", ".pgm", ".ppm"})

# More than any slice or film scan needs. Without a limit, a small file could claim all memory.
MAX_PIXELS = 64_000_000

# Only these formats: rarer ones start other programs (EPS) or have parsers that are little tested.
_FORMATS = ("JPEG", "PNG", "BMP", "DIB", "TIFF", "WEBP", "GIF", "PPM")

# Pillow has a higher limit of its own, at which it only warns; here this is an error too.
warnings.simplefilter("error", Image.DecompressionBombWarning)


class ImageError(ValueError):
    """Raised for content that is not a readable image. The message is one line: the name and the reason.

    Args:
      name: name of the content, for the message.
      reason: what is wrong with the content.
    """

    def __init__(self, name: str, reason: Message):
        super().__init__(f"{name}: {reason}")
        self.reason = reason


def decode_image(content: bytes, *, name: str) -> np.ndarray:
    """Decodes the first frame of an image file to grey, upright by its EXIF orientation.

    Colour becomes grey by ITU-R 601 (Pillow's L; the Y channel of a JPEG file). Transparency is composited over black.
    32-bit integers, signed 16-bit integers and floats are scaled to uint16 by their own range. Signed 8-bit integers
    are shifted.

    Args:
      content: the bytes of the file.
      name: name of the content, for error messages.

    Returns:
      `[H, W]` uint8, or uint16 from files with 16 or more bits.

    Raises:
      ImageError: empty, truncated, unreadable or not an image, zero-sized, or above `MAX_PIXELS`.
    """
    return decode_first_frame(content, name=name)[0]


def decode_first_frame(content: bytes, *, name: str, max_pixels: int | None = None) -> tuple[np.ndarray, bool]:
    """Decodes like `decode_image`, with another limit; also returns whether the file has more frames."""
    limit = MAX_PIXELS if max_pixels is None else max_pixels
    if not content:
        raise ImageError(name, Message("empty", "the file is empty"))
    # On damaged input, Pillow may raise nearly any exception: struct.error, KeyError, SyntaxError, ...
    try:
        with Image.open(io.BytesIO(content), formats=_FORMATS) as image:
            width, height = image.size
            if width * height <= 0:
                raise ImageError(
                    name, Message("no_pixels_at", "the image has no pixels ({size})", size=f"{width}x{height}")
                )
            if width * height > limit:
                raise ImageError(name, describe_too_many_pixels(width, height, limit))
            if image.format == "JPEG":
                image.draft("L", None)  # type: ignore[arg-type]
            image.load()
            values = image_tags.correct_values(image, content)
            shown = image if values is None else _replace_values(image, values)
            array = np.ascontiguousarray(_convert_to_grey(_turn_upright(shown)))
            return array, _has_more_frames(image)
    except ImageError:
        raise
    except image_tags.PixelsError as error:
        raise ImageError(name, error.reason) from None
    except Image.UnidentifiedImageError:
        reason = image_tags.describe_rare_kind(content)
        raise ImageError(name, reason or Message("unknown_format", "not an image in a known format")) from None
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        raise ImageError(
            name, Message("more_pixels", "the image has more pixels than the limit of {limit}", limit=limit)
        ) from None
    except Exception as error:
        # Pillow raises this for samples in planes of a kind that it has no way to unpack.
        if content.startswith((b"\xff\xd8", b"MM\0+")) or "unknown raw mode" in str(error):
            rare = image_tags.describe_rare_kind(content)
            if rare:
                raise ImageError(name, rare) from None
        text = " ".join(str(error).split()) or type(error).__name__
        raise ImageError(name, Message("undecodable", "cannot be decoded: {reason}", reason=text)) from error


def describe_too_many_pixels(width: int, height: int, limit: int) -> Message:
    """Describes an image that exceeds a limit."""
    return Message(
        "too_many_pixels", "{size} pixels are more than the limit of {limit}", size=f"{width}x{height}", limit=limit
    )


def encode_png(image: np.ndarray) -> bytes:
    """Encodes a grey image `[H, W]` uint8 or uint16 as PNG; `decode_image` returns the same array."""
    if image.ndim != 2 or image.dtype not in (np.uint8, np.uint16):
        raise ValueError(f"expected [H, W] uint8 or uint16, got {image.shape} {image.dtype}")
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(image)).save(buffer, format="PNG", compress_level=1)
    return buffer.getvalue()


def _has_more_frames(image: Image.Image) -> bool:
    """Returns whether a loaded file has more frames; damaged ones count as absent."""
    try:
        return bool(getattr(image, "is_animated", False))
    except Exception:
        return False


def _turn_upright(image: Image.Image) -> Image.Image:
    """Applies the EXIF orientation; damaged EXIF data count as absent."""
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    except (SyntaxError, ValueError, TypeError, KeyError, OSError, struct.error):
        return image
    return image if orientation == 1 else ImageOps.exif_transpose(image)


def _replace_values(image: Image.Image, values: np.ndarray) -> Image.Image:
    """Makes a grey image of other values [H, W], with the orientation of the first."""
    if values.dtype == np.int8:
        values = (values.astype(np.int16) - min(int(values.min()), 0)).astype(np.uint8)
    elif values.dtype != np.uint16:
        values = scale_to_uint16(values.astype(np.float64))
    made = Image.fromarray(np.ascontiguousarray(values))
    made.info = {name: image.info[name] for name in ("exif",) if name in image.info}
    return made


def _convert_to_grey(image: Image.Image) -> np.ndarray:
    """Converts a loaded image in any mode to `[H, W]` uint8 or uint16."""
    if image.mode == "La":  # premultiplied, which is the image over black
        return np.asarray(image.getchannel("L"))
    if image.mode in ("I", "F"):
        return scale_to_uint16(np.asarray(image, np.float64))
    if image.mode.startswith("I;16"):
        return np.asarray(image).astype(np.uint16)
    if image.mode in ("CMYK", "PA"):
        image = image.convert("RGB" if image.mode == "CMYK" else "RGBA")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return np.asarray(ImageChops.multiply(image.convert("L"), image.getchannel("A")))
    return np.asarray(image.convert("L"))


def scale_to_uint16(values: np.ndarray) -> np.ndarray:
    """Scales the range of the finite float64 values to 0..65535; NaN and constant images become 0."""
    finite = np.isfinite(values)
    if not finite.any():
        return np.zeros(values.shape, np.uint16)
    low, high = values[finite].min(), values[finite].max()
    fraction = (values.clip(low, high) - low) / max(high - low, np.finfo(np.float64).tiny)
    return np.rint(np.nan_to_num(fraction) * 65535).astype(np.uint16)
