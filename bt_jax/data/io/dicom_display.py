"""DICOM pixels as a viewer displays them: stored values become measured values, and these become a grey image.

The steps are those of the standard (PS3.3 and PS3.4): pixel padding, the modality LUT, the VOI LUT or window, and the
photometric interpretation.
"""

import math
from collections.abc import Sequence
from types import ModuleType
from typing import Any

import numpy as np

from bt_jax.common.messages import Message
from bt_jax.data.io.slices import UnreadableError, convert_colour_to_grey, convert_to_grey


class FrameTags:
    """The tags of a frame: its own, those shared by all frames, or those of the file."""

    def __init__(self, dataset: Any, index: int):
        self.dataset = dataset
        own = dataset.get("PerFrameFunctionalGroupsSequence") or ()
        shared = dataset.get("SharedFunctionalGroupsSequence") or ()
        self.groups = [*([own[index]] if index < len(own) else []), *shared[:1]]

    def get(self, name: str, *, group: str) -> Any:
        """Returns the value of a tag, which enhanced files store in the sequence `group`."""
        for item in self.groups:
            inner = item.get(group) if group else None
            if inner and inner[0].get(name) is not None:
                return inner[0].get(name)
        return self.dataset.get(name)

    def get_number(self, name: str, *, group: str) -> float | None:
        """Returns the first value of a tag if it is a finite number."""
        return _parse_number(self.get(name, group=group))


def get_aspect(frame: FrameTags) -> float | None:
    """Returns the height of a pixel over its width, or None if the file does not say it."""
    for name, group in (
        ("PixelSpacing", "PixelMeasuresSequence"),
        ("ImagerPixelSpacing", ""),
        ("NominalScannedPixelSpacing", ""),
        ("PixelAspectRatio", ""),
    ):
        value = frame.get(name, group=group)
        if isinstance(value, Sequence) and not isinstance(value, str) and len(value) == 2:
            height, width = _parse_number(value[0]), _parse_number(value[1])
            if height and width and height > 0 and width > 0:
                return height / width
    return None


def render(library: ModuleType, pixels: np.ndarray, frame: FrameTags) -> tuple[np.ndarray, list[str]]:
    """Renders stored values [H, W] or [H, W, 3] as [H, W] uint8 or uint16, with remarks."""
    dataset = frame.dataset
    interpretation = str(dataset.get("PhotometricInterpretation", "MONOCHROME2")).strip().upper()
    if interpretation == "PALETTE COLOR":
        pixels = library.pixels.apply_color_lut(pixels, dataset)
    if pixels.ndim == 3:
        return convert_colour_to_grey(pixels), []
    values, about = _rescale(_replace_padding(dataset, pixels, inverted=interpretation == "MONOCHROME1"), frame)
    shown, odd = _apply_voi(values, frame)
    image = convert_to_grey(values) if shown is None else shown
    if interpretation == "MONOCHROME1":
        # Values of more than 8 bits have no natural white, so the largest of them becomes black.
        bits = parse_whole(dataset.get("BitsStored") or 8)
        white = 255 if shown is not None else 2**bits - 1 if bits <= 8 and image.dtype == np.uint8 else image.max()
        image = (np.maximum(white, image.max()) - image).astype(image.dtype)
    return np.ascontiguousarray(image), [*about, *odd]


def _replace_padding(dataset: Any, pixels: np.ndarray, *, inverted: bool) -> np.ndarray:
    """Replaces the padding, a value or a range of values, in stored values [H, W] by the darkest stored value."""
    value = _parse_number(dataset.get("PixelPaddingValue"))
    if value is None:
        return pixels
    limit = _parse_number(dataset.get("PixelPaddingRangeLimit"))
    limit = value if limit is None else limit
    padded = (pixels >= min(value, limit)) & (pixels <= max(value, limit))
    if not padded.any() or padded.all():
        return pixels
    measured = pixels[~padded]
    return np.where(padded, measured.max() if inverted else measured.min(), pixels)


def _rescale(pixels: np.ndarray, frame: FrameTags) -> tuple[np.ndarray, list[str]]:
    """Converts stored values to measured values by the modality LUT or the rescale slope and intercept."""
    table = frame.dataset.get("ModalityLUTSequence")
    if table:
        return _apply_table(table[0], pixels, frame.dataset)[0], []
    slope = frame.get_number("RescaleSlope", group="PixelValueTransformationSequence")
    intercept = frame.get_number("RescaleIntercept", group="PixelValueTransformationSequence")
    if slope == 0:
        return pixels, [Message("slope_of_zero", "The rescale slope in the file is 0 and was ignored.")]
    if (slope is None or slope == 1) and not intercept:
        return pixels, []
    return pixels.astype(np.float64) * (1.0 if slope is None else slope) + (intercept or 0.0), []


def _apply_voi(values: np.ndarray, frame: FrameTags) -> tuple[np.ndarray | None, list[str]]:
    """Applies the VOI LUT or window to measured values [H, W]: uint8, or None if neither changes the image."""
    unusable: list[str] = [
        Message(
            "useless_window",
            "The window in the file shows nothing of the image, so the full range of values was used.",
        )
    ]
    table = frame.get("VOILUTSequence", group="FrameVOILUTSequence")
    if table:
        chosen, bits = _apply_table(table[0], np.rint(values), frame.dataset)
        shown = np.clip(chosen * (255 / (2.0**bits - 1)), 0, 255)
    else:
        centre = frame.get_number("WindowCenter", group="FrameVOILUTSequence")
        width = frame.get_number("WindowWidth", group="FrameVOILUTSequence")
        if centre is None or width is None:
            return None, []
        function = str(frame.get("VOILUTFunction", group="FrameVOILUTSequence") or "LINEAR").strip().upper()
        if width < (1 if function == "LINEAR" else 1e-9):
            return None, unusable
        if function != "SIGMOID" and centre - width / 2 <= values.min() and values.max() <= centre + width / 2 - 1:
            return None, []  # nothing is cut off, and the values themselves are finer
        shown = _apply_window(np.asarray(values, np.float64), centre=centre, width=width, function=function)
    image = np.rint(shown).astype(np.uint8)
    if image.min() == image.max() and values.min() != values.max():
        return None, unusable
    return image, []


def _apply_window(values: np.ndarray, *, centre: float, width: float, function: str) -> np.ndarray:
    """Maps values to 0..255 by PS3.3 C.11.2.1.2 and C.11.2.1.3 of the standard; a window of width 1 is a threshold."""
    if function == "SIGMOID":
        return 255 / (1 + np.exp(np.clip(-4 * (values - centre) / width, -700, 700)))
    if function == "LINEAR":
        centre, width = centre - 0.5, width - 1
    if width == 0:
        return np.where(values > centre, 255.0, 0.0)
    return np.clip((values - centre) / width + 0.5, 0, 1) * 255


def _apply_table(item: Any, values: np.ndarray, dataset: Any) -> tuple[np.ndarray, int]:
    """Maps values [H, W] by a LUT of the file, clipped to its first and last entry; also returns its bits."""
    length, first, bits = (parse_whole(number) for number in item.LUTDescriptor)
    length, bits = length or 65536, bits or 16
    data = item.LUTData
    if isinstance(data, bytes):
        narrow = bits <= 8 and len(data) < 2 * length
        data = np.frombuffer(data, "u1" if narrow else "<u2" if dataset.original_encoding[1] else ">u2")
    table = np.asarray(data, np.float64)[:length]
    if not table.size or not 1 <= bits <= 16:
        raise UnreadableError(Message("dicom_table", "a lookup table of grey values in the DICOM file is invalid"))
    index = np.clip(np.asarray(values, np.float64) - first, 0, table.size - 1)
    return table[np.nan_to_num(index).astype(np.int64)], bits


def _parse_number(value: Any) -> float | None:
    """Parses a tag as a finite number, the first of several; None if it is not one."""
    if isinstance(value, list | tuple) or type(value).__name__ == "MultiValue":
        value = value[0] if len(value) else None
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None


def parse_whole(value: Any) -> int:
    """Parses a tag as an integer; -1 if it is not one."""
    number = _parse_number(value)
    return -1 if number is None or number != int(number) else int(number)
