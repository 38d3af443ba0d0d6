"""DICOM files to grey slices. The only module that knows pydicom.

Read are the tags that say how to make a picture of the pixels, and no others: what a file says about a patient is
never looked at, and no text of a file gets into a message.
"""

import functools
import io
import itertools
import logging
import math
import struct
import warnings
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import numpy as np
from PIL import Image

from bt_jax.common.messages import Message
from bt_jax.data.io import dicom_compression, dicom_remarks
from bt_jax.data.io.slices import Limits, Slice, UnreadableError, check_size, convert_to_grey, inflate

_PIXELS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")
_TAGS = (
    *_PIXELS, "Modality", "BodyPartExamined", "SamplesPerPixel", "PhotometricInterpretation", "PlanarConfiguration",
    "NumberOfFrames", "Rows", "Columns", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation",
    "PixelPaddingValue", "RescaleSlope", "RescaleIntercept", "ModalityLUTSequence", "VOILUTSequence", "WindowCenter",
    "WindowWidth", "VOILUTFunction", "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence",
    "ExtendedOffsetTable", "ExtendedOffsetTableLengths", "RedPaletteColorLookupTableDescriptor",
    "GreenPaletteColorLookupTableDescriptor", "BluePaletteColorLookupTableDescriptor",
    "RedPaletteColorLookupTableData", "GreenPaletteColorLookupTableData", "BluePaletteColorLookupTableData",
    "SegmentedRedPaletteColorLookupTableData", "SegmentedGreenPaletteColorLookupTableData",
    "SegmentedBluePaletteColorLookupTableData",
)  # fmt: skip

_PIXEL_TAG = b"\xe0\x7f\x10\x00"
_SEQUENCES = (
    "ModalityLUTSequence", "VOILUTSequence", "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"
)  # fmt: skip
_UNDEFINED = 2**32 - 1
# Ten thousand frames with a hundred elements each stay below both.
_MOST_READS, _MOST_SEQUENCE_BYTES = 3_000_000, 2**25
_DEFLATED = b"1.2.840.10008.1.2.1.99"
_ODD_DEFLATED = Message("dicom_deflated", "a deflated DICOM file with an unusual header is not read")


@functools.cache
def _import_pydicom() -> ModuleType:
    """pydicom, made silent: its messages quote the values of tags."""
    try:
        import pydicom
    except ImportError:
        raise UnreadableError(
            Message(
                "dicom_extra",
                "DICOM files need the extra `medical`: {command}",
                command=".venv/bin/pip install -e '.[medical]'",
            )
        ) from None
    import pydicom.pixels

    pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE
    logging.getLogger("pydicom").setLevel(logging.CRITICAL + 1)
    warnings.filterwarnings("ignore", module=r"pydicom(\..*)?|bt_jax\.data\.dicom")
    return pydicom


def is_dicom(start: bytes) -> bool:
    """Whether the first bytes of a file, 132 or more, are those of DICOM, with its preamble or without."""
    if start[128:132] == b"DICM":
        return True
    # Without: the data elements begin at once, those of group 8, or the file's own of group 2.
    group, element, vr = start[0:2], start[2:4], start[4:6]
    if group not in (b"\x08\x00", b"\x02\x00") or len(start) < 12 or element[1:] != b"\x00":
        return False
    explicit = vr in (b"UL", b"UI", b"CS", b"OB", b"SH", b"DA")
    return explicit or struct.unpack("<I", start[4:8])[0] <= 256


def is_deflated(content: bytes) -> bool:
    """Whether the content of a DICOM file is compressed as a whole."""
    return is_dicom(content[:1024]) and _DEFLATED in content


def read(content: bytes, *, limits: Limits) -> Iterator[Slice]:
    """The frames of a DICOM file, each as a person would see it in a viewer.

    The modality's rescaling or table turns stored values into measured values. The VOI table or the first window turns
    these into grey values 0..255 if it cuts anything off; otherwise `convert_to_grey` does. MONOCHROME1 is inverted, so
    that larger values are brighter. Colours become grey as in other images.

    Raises:
      UnreadableError: damaged, without pixels, above the limits, or compressed in a way that needs another package.
    """
    library = _import_pydicom()
    # pydicom lets nearly any exception through on damaged input, and quotes values of tags in its messages.
    try:
        dataset = _parse(library, content, limits=limits)
        if not any(name in dataset for name in _PIXELS) and _PIXEL_TAG in content:
            raise UnreadableError(
                Message("dicom_no_end", "the DICOM file is cut off or damaged: its pixels have no end")
            )
        count = _check_header(library, dataset, limits=limits)
        remarks = dicom_remarks.describe_unusual_content(
            str(dataset.get("Modality", "")), str(dataset.get("BodyPartExamined") or "")
        )
        frames = library.pixels.iter_pixels(dataset)
        done = 0
        for done, pixels in enumerate(itertools.islice(frames, count), 1):
            image, about = _render(library, pixels, _FrameTags(dataset, done - 1))
            yield Slice(image, done if count > 1 else None, (*remarks, *about))
    except UnreadableError:
        raise
    except Exception as error:
        raise UnreadableError(
            Message("dicom_damaged", "the DICOM file is damaged or unusual ({kind})", kind=type(error).__name__)
        ) from None
    if done < count:
        raise UnreadableError(
            Message(
                "dicom_frames_missing",
                "the DICOM file is cut off: {there} of {needed} frames are there",
                there=done,
                needed=count,
            )
        )


def _parse(library: ModuleType, content: bytes, *, limits: Limits) -> Any:
    if is_deflated(content):
        content = _inflate_body(content, limits=limits)
    dataset = library.dcmread(_Bounded(content), force=True, specific_tags=list(_TAGS))
    for name in _SEQUENCES:  # those of a known length are not taken apart before they are asked for
        if name in dataset and (dataset.get_item(name).length or 0) % _UNDEFINED > _MOST_SEQUENCE_BYTES:
            raise UnreadableError(
                Message("dicom_sequences", "the DICOM file has more to say about its frames than is read")
            )
    if "TransferSyntaxUID" not in dataset.file_meta:
        implicit, little = dataset.original_encoding
        uid = library.uid
        dataset.file_meta.TransferSyntaxUID = (
            (uid.ImplicitVRLittleEndian if implicit else uid.ExplicitVRLittleEndian)
            if little
            else uid.ExplicitVRBigEndian
        )
    return dataset


class _Bounded(io.BytesIO):
    """A file in which no more is looked up than an honest file holds: pydicom takes a microsecond for every element."""

    reads = 0

    def read(self, size: int | None = -1, /) -> bytes:
        self.reads += 1
        if self.reads > _MOST_READS:
            raise UnreadableError(Message("dicom_elements", "the DICOM file has more data elements than are read"))
        return super().read(size)


def _inflate_body(content: bytes, *, limits: Limits) -> bytes:
    """The same file with its data elements inflated; pydicom would inflate them without a limit."""
    end = 144 + struct.unpack("<I", content[140:144])[0] if content[132:138] == b"\x02\x00\x00\x00UL" else 0
    if content.count(_DEFLATED) != 1 or _DEFLATED not in content[:end]:
        raise UnreadableError(_ODD_DEFLATED)
    plain = b"1.2.840.10008.1.2.1".ljust(len(_DEFLATED), b"\x00")
    body = inflate(content, window_bits=-15, limits=limits, start=end)
    if _DEFLATED in body:
        raise UnreadableError(_ODD_DEFLATED)
    return content[:end].replace(_DEFLATED, plain) + body


def _check_header(library: ModuleType, dataset: Any, *, limits: Limits) -> int:
    """The number of frames of a file whose header makes sense."""
    kind = next((name for name in _PIXELS if name in dataset), None)
    if kind is None:
        raise UnreadableError(
            Message("dicom_no_image", "the DICOM file holds no image (perhaps a report, a plan or a directory)")
        )
    rows, columns = (_parse_whole(dataset.get(name)) for name in ("Rows", "Columns"))
    count = _parse_whole(dataset.get("NumberOfFrames") or 1)
    bits, samples = _parse_whole(dataset.get("BitsAllocated")), _parse_whole(dataset.get("SamplesPerPixel") or 1)
    check_size(width=columns, height=rows, slices=count, limits=limits)
    if samples not in (1, 3) or bits not in (1, 8, 16, 32, 64):
        raise UnreadableError(
            Message(
                "dicom_samples",
                "DICOM pixels of {samples} samples with {bits} bits are not read",
                samples=samples,
                bits=bits,
            )
        )
    if dataset.file_meta.TransferSyntaxUID.is_encapsulated:
        dicom_compression.check(library, dataset, count)
    else:
        needed, there = -(-rows * columns * samples * bits * count // 8), len(dataset[kind].value or b"")
        if there < needed and "422" not in str(dataset.get("PhotometricInterpretation")):
            raise UnreadableError(f"the DICOM file is cut off: {there:,} of {needed:,} bytes of pixels are there")
    return count


class _FrameTags:
    """The tags of a frame: its own, those that all frames share, or those of the file."""

    def __init__(self, dataset: Any, index: int):
        self.dataset = dataset
        own = dataset.get("PerFrameFunctionalGroupsSequence") or ()
        shared = dataset.get("SharedFunctionalGroupsSequence") or ()
        self.groups = [*([own[index]] if index < len(own) else []), *shared[:1]]

    def get(self, name: str, *, group: str) -> Any:
        """The value of a tag, which an enhanced file keeps in the sequence `group`."""
        for item in self.groups:
            inner = item.get(group)
            if inner and inner[0].get(name) is not None:
                return inner[0].get(name)
        return self.dataset.get(name)

    def number(self, name: str, *, group: str) -> float | None:
        """The first finite number of a tag."""
        return _parse_number(self.get(name, group=group))


def _render(library: ModuleType, pixels: np.ndarray, frame: _FrameTags) -> tuple[np.ndarray, list[str]]:
    """Stored values [H, W] or [H, W, 3] -> [H, W] uint8 or uint16, and remarks."""
    dataset = frame.dataset
    interpretation = str(dataset.get("PhotometricInterpretation", "MONOCHROME2")).strip().upper()
    if interpretation == "PALETTE COLOR":
        pixels = library.pixels.apply_color_lut(pixels, dataset)
    if pixels.ndim == 3:
        return _convert_colour(pixels), []
    values, about = _rescale(_replace_padding(dataset, pixels, inverted=interpretation == "MONOCHROME1"), frame)
    shown, odd = _apply_voi(values, frame)
    image = convert_to_grey(values) if shown is None else shown
    if interpretation == "MONOCHROME1":
        # Deep values have no natural white. Black is then what was the largest of them.
        bits = _parse_whole(dataset.get("BitsStored") or 8)
        white = 255 if shown is not None else 2**bits - 1 if bits <= 8 and image.dtype == np.uint8 else image.max()
        image = (np.maximum(white, image.max()) - image).astype(image.dtype)
    return np.ascontiguousarray(image), [*about, *odd]


def _convert_colour(pixels: np.ndarray) -> np.ndarray:
    """[H, W, 3] of unsigned integers -> [H, W] by ITU-R 601, as for all other images."""
    if pixels.dtype == np.uint8:
        return np.asarray(Image.fromarray(np.ascontiguousarray(pixels)).convert("L"))
    return convert_to_grey(np.rint(pixels.astype(np.float64) @ (0.299, 0.587, 0.114)))


def _replace_padding(dataset: Any, pixels: np.ndarray, *, inverted: bool) -> np.ndarray:
    """Stored values [H, W], with the darkest of them where the file says that there is nothing."""
    value = _parse_number(dataset.get("PixelPaddingValue"))
    padded = pixels == value
    if value is None or not padded.any() or padded.all():
        return pixels
    measured = pixels[~padded]
    return np.where(padded, measured.max() if inverted else measured.min(), pixels)


def _rescale(pixels: np.ndarray, frame: _FrameTags) -> tuple[np.ndarray, list[str]]:
    """Stored values as measured values."""
    table = frame.dataset.get("ModalityLUTSequence")
    if table:
        return _apply_table(table[0], pixels, frame.dataset)[0], []
    slope = frame.number("RescaleSlope", group="PixelValueTransformationSequence")
    intercept = frame.number("RescaleIntercept", group="PixelValueTransformationSequence")
    if slope == 0:
        return pixels, [Message("slope_of_zero", "The rescale slope in the file is 0 and was not used.")]
    if (slope is None or slope == 1) and not intercept:
        return pixels, []
    return pixels.astype(np.float64) * (1.0 if slope is None else slope) + (intercept or 0.0), []


def _apply_voi(values: np.ndarray, frame: _FrameTags) -> tuple[np.ndarray | None, list[str]]:
    """Measured values [H, W] as a viewer shows them, uint8; None where no window of the file changes the picture."""
    unusable: list[str] = [
        Message(
            "useless_window",
            "The window in the file shows nothing of the image, so its whole range of values was used.",
        )
    ]
    table = frame.get("VOILUTSequence", group="FrameVOILUTSequence")
    if table:
        chosen, bits = _apply_table(table[0], np.rint(values), frame.dataset)
        shown = np.clip(chosen * (255 / (2.0**bits - 1)), 0, 255)
    else:
        centre = frame.number("WindowCenter", group="FrameVOILUTSequence")
        width = frame.number("WindowWidth", group="FrameVOILUTSequence")
        if centre is None or width is None:
            return None, []
        function = str(frame.get("VOILUTFunction", group="FrameVOILUTSequence") or "LINEAR").strip().upper()
        if width < (1 if function == "LINEAR" else 1e-9):
            return None, unusable
        if function != "SIGMOID" and centre - width / 2 <= values.min() and values.max() <= centre + width / 2 - 1:
            return None, []  # nothing is cut off: the values themselves tell as much, and more finely
        shown = _apply_window(np.asarray(values, np.float64), centre=centre, width=width, function=function)
    image = np.rint(shown).astype(np.uint8)
    if image.min() == image.max() and values.min() != values.max():
        return None, unusable
    return image, []


def _apply_window(values: np.ndarray, *, centre: float, width: float, function: str) -> np.ndarray:
    """Values as 0..255 by PS3.3 C.11.2.1.2 and C.11.2.1.3 of the standard; a window of 1 is a threshold."""
    if function == "SIGMOID":
        return 255 / (1 + np.exp(np.clip(-4 * (values - centre) / width, -700, 700)))
    if function == "LINEAR":
        centre, width = centre - 0.5, width - 1
    if width == 0:
        return np.where(values > centre, 255.0, 0.0)
    return np.clip((values - centre) / width + 0.5, 0, 1) * 255


def _apply_table(item: Any, values: np.ndarray, dataset: Any) -> tuple[np.ndarray, int]:
    """Values [H, W] by a table of the file; what lies outside takes its first or last entry. Also its bits."""
    length, first, bits = (_parse_whole(number) for number in item.LUTDescriptor)
    length, bits = length or 65536, bits or 16
    data = item.LUTData
    if isinstance(data, bytes):
        narrow = bits <= 8 and len(data) < 2 * length
        data = np.frombuffer(data, "u1" if narrow else "<u2" if dataset.original_encoding[1] else ">u2")
    table = np.asarray(data, np.float64)[:length]
    if not table.size or not 1 <= bits <= 16:
        raise UnreadableError(Message("dicom_table", "a table of grey values in the DICOM file makes no sense"))
    index = np.clip(np.asarray(values, np.float64) - first, 0, table.size - 1)
    return table[np.nan_to_num(index).astype(np.int64)], bits


def _parse_number(value: Any) -> float | None:
    """A tag as a finite number: the first where it has several, None where it is none."""
    if isinstance(value, list | tuple) or type(value).__name__ == "MultiValue":
        value = value[0] if len(value) else None
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None


def _parse_whole(value: Any) -> int:
    """A tag as a whole number, -1 where it is none."""
    number = _parse_number(value)
    return -1 if number is None or number != int(number) else int(number)
