"""Grey slices from files of any kind, limits on what files may claim, and the error for unreadable files."""

import dataclasses
import zlib

import numpy as np
from PIL import Image

from bt_jax.common.messages import Message
from bt_jax.data.io.decode import MAX_PIXELS, describe_too_many_pixels, scale_to_uint16

# Larger values are not measurements, and their differences overflow.
_LARGEST = 1e30
_GZIP_BITS, _GZIP_MEMBER = 31, b"\x1f\x8b\x08"
# Pixels whose sides differ by less than this count as square.
_SAME_ASPECT = 0.01
# A larger ratio of the sides of a pixel is a mistake.
_LARGEST_ASPECT = 20.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Limits:
    """Limits on what an untrusted file may claim, checked before memory is allocated.

    Attributes:
      file_bytes: size of a file.
      pixels: width times height of an image or slice.
      slices: frames of a DICOM file, or slices of a volume.
      unpacked_bytes: size of the decompressed content.
    """

    file_bytes: int = 2**29
    pixels: int = MAX_PIXELS
    slices: int = 10_000
    unpacked_bytes: int = 2**30


@dataclasses.dataclass(frozen=True)
class Slice:
    """A grey image.

    Attributes:
      image: [H, W] uint8 or uint16.
      number: number of the slice in its file, from 1; None if the file holds one image.
      warnings: sentences about content that was ignored or changed.
    """

    image: np.ndarray
    number: int | None = None
    warnings: tuple[str, ...] = ()


class UnreadableError(ValueError):
    """Raised for content that cannot be read as images.

    Args:
      reason: one sentence without the file's name or text; a `Message` can be translated.
    """

    def __init__(self, reason: str):
        super().__init__(reason)
        self.reason = reason


def check_size(*, width: int, height: int, slices: int, limits: Limits) -> None:
    """Raises `UnreadableError` for a header that claims no pixels, or more than the limits."""
    if width <= 0 or height <= 0 or slices <= 0:
        raise UnreadableError(Message("no_pixels", "the image has no pixels"))
    if width * height > limits.pixels:
        raise UnreadableError(describe_too_many_pixels(width, height, limits.pixels))
    if slices > limits.slices:
        raise UnreadableError(
            Message(
                "too_many_slices",
                "{count} slices are more than the limit of {limit}",
                count=slices,
                limit=limits.slices,
            )
        )


def inflate(packed: bytes, *, window_bits: int, limits: Limits, start: int = 0) -> bytes:
    """Decompresses zlib streams one after the other, and never holds more than `unpacked_bytes` of the result.

    A gzip file may have several members (RFC 1952, 2.2). Whatever follows the last of them is ignored, as gzip does.
    """
    parts: list[bytes] = []
    left = limits.unpacked_bytes + 1
    rest = memoryview(packed)[start:]
    while not parts or (window_bits == _GZIP_BITS and bytes(rest[:3]) == _GZIP_MEMBER):
        unpacker = zlib.decompressobj(window_bits)
        try:
            parts.append(unpacker.decompress(rest, left))
        except zlib.error:
            raise UnreadableError(Message("packed_damaged", "the compressed content is damaged")) from None
        left -= len(parts[-1])
        if left <= 0:
            raise UnreadableError(
                Message(
                    "unpacks_to_too_much",
                    "it decompresses to more than the limit of {limit} bytes",
                    limit=limits.unpacked_bytes,
                )
            )
        if not unpacker.eof:
            raise UnreadableError(Message("packed_cut_off", "the compressed content is truncated"))
        rest = rest[len(rest) - len(unpacker.unused_data) :]
    return b"".join(parts)


def make_square(image: np.ndarray, *, aspect: float | None, limits: Limits) -> tuple[np.ndarray, tuple[str, ...]]:
    """Resamples an image with pixels that are not square, so that shapes look as they are.

    Args:
      image: [H, W] uint8 or uint16.
      aspect: height of a pixel over its width; None if unknown.
      limits: limits on pixels, which the result keeps.

    Returns:
      [H, W] of the same dtype, with interpolated values along the side with larger pixels; remarks.
    """
    # Scanners round the spacing, and a per cent cannot be seen.
    if aspect is None or not abs(aspect - 1) >= _SAME_ASPECT:
        return image, ()
    if not 1 / _LARGEST_ASPECT <= aspect <= _LARGEST_ASPECT:
        text = "The file claims implausibly elongated pixels, so its pixel spacing was ignored."
        return image, (Message("odd_spacing", text),)
    height, width = image.shape
    stretched = max(1, aspect), max(1, 1 / aspect)
    shrink = 1.0 if height * stretched[0] * width * stretched[1] <= limits.pixels else 1 / max(stretched)
    size = max(1, round(width * stretched[1] * shrink)), max(1, round(height * stretched[0] * shrink))
    if size == (width, height):
        return image, ()
    floats = Image.fromarray(image.astype(np.float32)).resize(size, Image.Resampling.BILINEAR)
    return np.rint(np.asarray(floats)).astype(image.dtype), ()


def convert_to_grey(values: np.ndarray) -> np.ndarray:
    """Converts measured values of any range to a grey image.

    Integers keep their values, shifted if some are negative; see also `compact`. Everything else is scaled to uint16 by
    its own range.

    Args:
      values: [H, W] of an integer or real dtype.

    Returns:
      [H, W] uint8 or uint16.
    """
    if values.dtype.kind not in "iu":
        values = np.clip(np.asarray(values, np.float64), -_LARGEST, _LARGEST)
        if not np.isfinite(values).all() or (values != np.rint(values)).any():
            return scale_to_uint16(values)
    low, high = values.min().item(), values.max().item()
    if high - min(low, 0) > 65535:
        return scale_to_uint16(np.asarray(values, np.float64))
    return compact((np.asarray(values, np.float64) - min(low, 0)).astype(np.uint16))


def convert_colour_to_grey(values: np.ndarray) -> np.ndarray:
    """Converts [H, W, 3] of unsigned integers to [H, W] uint8 or uint16 by ITU-R 601, as for all other images."""
    if values.dtype == np.uint8:
        return np.asarray(Image.fromarray(np.ascontiguousarray(values)).convert("L"))
    return convert_to_grey(np.rint(values.astype(np.float64) @ (0.299, 0.587, 0.114)))


def compact(image: np.ndarray) -> np.ndarray:
    """Converts an image with at most 8 bits of information to uint8, and returns any other unchanged.

    Scanners and programs store 8-bit slices in 16 bits, often multiplied by 16, 256 or 257. Intensities are relative,
    so the factor has no meaning, but only 8-bit images are processed with rounding to 8 bits.

    Args:
      image: [H, W] uint8 or uint16, not empty.

    Returns:
      [H, W] uint8 or uint16, proportional to the image.
    """
    if image.dtype == np.uint8:
        return image
    factor = 1 if image.max() <= 255 else int(np.gcd.reduce(image, axis=None))
    return (image // factor).astype(np.uint8) if image.max() // factor <= 255 else image
