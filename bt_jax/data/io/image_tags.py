"""What Pillow's mode does not say about pixels, looked up in the tags of a file.

Pillow drops the sign of 8 bits, the inversion of 16 bits and more, and the order of bytes of some compressed files.
Pixels are corrected here, or refused.
"""

import io
import struct
import sys

import numpy as np
from PIL import Image, TiffImagePlugin

from bt_jax.common.messages import Message

# Tags of TIFF.
_BITS, _COMPRESSION, _PHOTOMETRIC, _SAMPLES, _PLANES, _COLOURS = 258, 259, 262, 277, 284, 320
_FORMATS, _SUBSAMPLING = 339, 530
_SIZE_AND_PLACE = ((256,), (257,), (273, 324))
_UNSIGNED, _SIGNED = 1, 2
_WHITE_IS_ZERO = 0

# Pillow reads colours of 16 bits with their upper 8 bits. If the values fill fewer than 6 of these, too few are left.
_LEAST_COLOUR = 64
_TIFF_KIND = Message(
    "tiff_kind", "a TIFF file whose kind of pixels cannot be decoded here: save it as grey with 8 or 16 bits"
)
_JPEG_KIND = Message(
    "jpeg_kind", "a JPEG file with more than 8 bits or a rare compression, which cannot be decoded here: save it as PNG"
)


class PixelsError(ValueError):
    """Raised for pixels that cannot be decoded correctly; `reason` is one sentence."""

    def __init__(self, reason: Message):
        super().__init__(reason)
        self.reason = reason


def correct_values(image: Image.Image, content: bytes) -> np.ndarray | None:
    """Returns the grey values of a loaded image where its mode does not say them, or None where it does.

    Args:
      image: loaded by Pillow.
      content: its file.

    Returns:
      [H, W] uint16, int8, int32, uint32 or float32, larger being brighter.

    Raises:
      PixelsError: the pixels that Pillow gives are not those of the file, and cannot be corrected.
    """
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        return _correct_tiff(image)
    if image.format == "PNG":
        return _correct_png(image, depth=content[24])
    if image.format == "PPM" and image.mode == "I":  # scaled to 16 bits
        return np.asarray(image).astype(np.uint16)
    return None


def _correct_tiff(image: TiffImagePlugin.TiffImageFile) -> np.ndarray | None:
    tags = image.tag_v2
    bits, samples = tags.get(_BITS, (1,))[0], tags.get(_SAMPLES, 1)
    sample_format, inverted = tags.get(_FORMATS, (_UNSIGNED,))[0], tags.get(_PHOTOMETRIC, 0) == _WHITE_IS_ZERO
    by_libtiff = tags.get(_COMPRESSION, 1) != 1
    if tags.get(_PLANES, 1) == 2 and samples > 1:
        _check_planes(image.mode, bits=bits, by_libtiff=by_libtiff)
    if image.mode == "YCbCr" and tuple(tags.get(_SUBSAMPLING, (2, 2))) != (1, 1):
        raise PixelsError(_TIFF_KIND)  # Pillow reads uncompressed ones as if each pixel had its own colour
    if image.mode == "P":
        _restore_palette(image)
    if bits == 16 and samples > 1:
        _check_deep_colour(image)
    if image.mode == "L" and sample_format == _SIGNED:
        return np.asarray(image).view(np.int8)
    if image.mode.startswith("I;16") and inverted:
        return (65535 - np.asarray(image).astype(np.int32)).astype(np.uint16)
    if image.mode not in ("I", "F"):
        return None
    values = np.asarray(image)
    # libtiff gives the order of the machine, but Pillow expects that of the file.
    if by_libtiff and tags.prefix[:2] != (b"II" if sys.byteorder == "little" else b"MM"):
        values = (values.astype(np.int16) if bits == 16 else values).byteswap().astype(values.dtype)
    if image.mode == "I" and bits == 32 and sample_format == _UNSIGNED:
        values = values.view(np.uint32)
    return -values if inverted and image.mode == "F" else values


def _check_planes(mode: str, *, bits: int, by_libtiff: bool) -> None:
    """Raises for samples in separate planes that Pillow mixes up; a grey plane before others is right."""
    colours = mode in ("RGB", "RGBA", "CMYK") and (bits == 8 or by_libtiff)
    if not colours and mode not in ("L", "I", "F", "P") and not mode.startswith("I;16"):
        raise PixelsError(_TIFF_KIND)


def _restore_palette(image: TiffImagePlugin.TiffImageFile) -> None:
    """Restores a palette with values of 8 bits, as old programs write; Pillow takes the upper 8 of 16 bits."""
    colours = image.tag_v2.get(_COLOURS, ())
    if colours and len(colours) % 3 == 0 and 0 < max(colours) < 256:
        image.putpalette(np.reshape(colours, (3, -1)).T.astype(np.uint8).tobytes())


def _correct_png(image: Image.Image, *, depth: int) -> np.ndarray | None:
    transparent = image.info.get("transparency")
    if depth == 16 and image.mode in ("RGB", "RGBA"):
        if transparent is not None:
            text = "a PNG file with 16 bits and a transparent colour, which cannot be decoded here: save it as grey"
            raise PixelsError(Message("png_kind", text))
        _check_deep_colour(image)
    elif depth == 16 and isinstance(transparent, int):
        values = np.asarray(image).astype(np.uint16)
        return np.where(values == transparent, 0, values).astype(np.uint16)
    elif depth in (2, 4) and image.mode == "L" and isinstance(transparent, int):
        # Pillow scales the values to 8 bits, but not the one that is transparent.
        image.info["transparency"] = transparent * 255 // (2**depth - 1)
    return None


def _check_deep_colour(image: Image.Image) -> None:
    """Raises for colours of 16 bits that use only the lower of them."""
    if image.mode in ("RGB", "RGBA") and np.asarray(image)[..., :3].max() < _LEAST_COLOUR:
        text = "its 16-bit colours use only the lower bits, which cannot be decoded here: save it as grey with 16 bits"
        raise PixelsError(Message("deep_colour", text))


def describe_rare_kind(content: bytes) -> Message | None:
    """Describes a JPEG or TIFF file of a kind that Pillow cannot decode, or returns None for any other content."""
    if content.startswith(b"\xff\xd8\xff"):
        return _describe_rare_jpeg(content)
    if content.startswith(b"MM\0+"):  # Pillow takes the header of a BigTIFF in this byte order for another
        return _TIFF_KIND
    if content[:4] in (b"II*\0", b"MM\0*", b"II+\0"):
        try:
            with io.BytesIO(content) as file:
                tags = TiffImagePlugin.ImageFileDirectory_v2(file.read(16 if content[2:3] == b"+" else 8))
                file.seek(tags.next)
                tags.load(file)
            return _TIFF_KIND if all(any(tag in tags for tag in group) for group in _SIZE_AND_PLACE) else None
        except Exception:  # Pillow's parser may raise nearly any on damaged input
            return None
    return None


def _describe_rare_jpeg(content: bytes) -> Message | None:
    """Looks for the frame header (ITU-T T.81, B.2.2); 8 bits, baseline or progressive, are common."""
    place = 2
    while place + 10 <= len(content) and content[place] == 0xFF:
        marker, length = content[place + 1], struct.unpack(">H", content[place + 2 : place + 4])[0]
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            if marker <= 0xC2 and content[place + 4] == 8:
                return None
            return _JPEG_KIND
        place += 2 + length
    return None
