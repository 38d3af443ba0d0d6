"""Reading of DICOM files as grey slices. The only module that imports pydicom.

Only the tags that are needed to display the pixels are read, with modality and body part. Patient data are never read,
and no message contains text of a file.
"""

import functools
import io
import logging
import struct
import warnings
from collections.abc import Iterator
from types import ModuleType
from typing import Any

from bt_jax.common.messages import Message
from bt_jax.data.io import dicom_compression, dicom_content, dicom_display
from bt_jax.data.io.slices import Limits, Slice, UnreadableError, check_size, inflate, make_square

_PIXELS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")
_TAGS = (
    *_PIXELS, "Modality", "BodyPartExamined", "SOPClassUID", "ImageType", "PixelSpacing", "ImagerPixelSpacing",
    "NominalScannedPixelSpacing", "PixelAspectRatio", "SamplesPerPixel", "PhotometricInterpretation",
    "PlanarConfiguration", "NumberOfFrames", "Rows", "Columns", "BitsAllocated", "BitsStored", "HighBit",
    "PixelRepresentation", "PixelPaddingValue", "PixelPaddingRangeLimit", "RescaleSlope", "RescaleIntercept",
    "ModalityLUTSequence", "VOILUTSequence", "WindowCenter", "WindowWidth", "VOILUTFunction",
    "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence", "ExtendedOffsetTable",
    "ExtendedOffsetTableLengths", "RedPaletteColorLookupTableDescriptor", "GreenPaletteColorLookupTableDescriptor",
    "BluePaletteColorLookupTableDescriptor", "RedPaletteColorLookupTableData", "GreenPaletteColorLookupTableData",
    "BluePaletteColorLookupTableData", "SegmentedRedPaletteColorLookupTableData",
    "SegmentedGreenPaletteColorLookupTableData", "SegmentedBluePaletteColorLookupTableData",
)  # fmt: skip

_PIXEL_TAG = b"\xe0\x7f\x10\x00"
_SEQUENCES = (
    "ModalityLUTSequence", "VOILUTSequence", "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"
)  # fmt: skip
# Ten thousand frames with a hundred elements each are below both limits.
_MOST_READS, _MOST_SEQUENCE_BYTES = 3_000_000, 2**25
_DEFLATED = b"1.2.840.10008.1.2.1.99"
_ODD_DEFLATED = Message("dicom_deflated", "deflated DICOM files with an unusual header are not supported")


@functools.cache
def _import_pydicom() -> ModuleType:
    """Imports pydicom and silences it, since its messages quote the values of tags."""
    try:
        import pydicom
    except ImportError:
        raise UnreadableError(
            Message(
                "dicom_extra",
                "DICOM files need further packages: {command}",
                command="python -m pip install nibabel pydicom",
            )
        ) from None
    import pydicom.pixels

    pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE
    logging.getLogger("pydicom").setLevel(logging.CRITICAL + 1)
    warnings.filterwarnings("ignore", module=r"pydicom(\..*)?|bt_jax\.data\.io\.dicom.*")
    return pydicom


def is_dicom(start: bytes) -> bool:
    """Returns whether the first bytes of a file, 132 or more, are those of DICOM, with or without a preamble."""
    if start[128:132] == b"DICM":
        return True
    # Without a preamble, the file starts with data elements of group 8, or of the file meta group 2.
    group, element, vr = start[0:2], start[2:4], start[4:6]
    explicit = vr in (b"UL", b"UI", b"CS", b"OB", b"SH", b"DA")
    if group == b"\x00\x08" and element[:1] == b"\x00":  # big-endian files are explicit
        return explicit
    if group not in (b"\x08\x00", b"\x02\x00") or len(start) < 12 or element[1:] != b"\x00":
        return False
    return explicit or struct.unpack("<I", start[4:8])[0] <= 256


def is_deflated(content: bytes) -> bool:
    """Returns whether a DICOM file is compressed as a whole."""
    return is_dicom(content[:1024]) and _DEFLATED in content


def read(content: bytes, *, limits: Limits) -> Iterator[Slice]:
    """Reads the frames of a DICOM file, each as a viewer would display it.

    The modality's rescaling or table turns stored values into measured values. The VOI table or the first window turns
    these into grey values 0..255 if it cuts anything off; otherwise `convert_to_grey` does. MONOCHROME1 is inverted, so
    that larger values are brighter. Colours become grey as in other images. Pixels that are not square become square.

    Raises:
      UnreadableError: the file is damaged, has no pixels, exceeds the limits, or needs another package.
    """
    library = _import_pydicom()
    # On damaged input, pydicom may raise nearly any exception, and its messages quote values of tags.
    try:
        dataset = _parse(library, content, limits=limits)
        if not any(name in dataset for name in _PIXELS) and _PIXEL_TAG in content:
            raise UnreadableError(
                Message("dicom_no_end", "the DICOM file is truncated or damaged: its pixels have no end")
            )
        count = _check_header(library, dataset, limits=limits)
        remarks = _describe_content(dataset)
        frames = dicom_compression.iterate_frames(library, dataset, count)
        done = 0
        for done, pixels in enumerate(frames, 1):
            frame = dicom_display.FrameTags(dataset, done - 1)
            image, odd = dicom_display.render(library, pixels, frame)
            image, stretched = make_square(image, aspect=dicom_display.get_aspect(frame), limits=limits)
            yield Slice(image, done if count > 1 else None, (*remarks, *odd, *stretched))
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
                "the DICOM file is truncated: it has {there} of {needed} frames",
                there=done,
                needed=count,
            )
        )


def _parse(library: ModuleType, content: bytes, *, limits: Limits) -> Any:
    if is_deflated(content):
        content = _inflate_body(content, limits=limits)
    dataset = library.dcmread(_Bounded(content), force=True, specific_tags=list(_TAGS))
    for name in _SEQUENCES:
        if name in dataset and _count_unparsed_bytes(dataset.get_item(name)) > _MOST_SEQUENCE_BYTES:
            raise UnreadableError(Message("dicom_sequences", "the DICOM file has too much data about its frames"))
    if "TransferSyntaxUID" not in dataset.file_meta:
        implicit, little = dataset.original_encoding
        uid = library.uid
        dataset.file_meta.TransferSyntaxUID = (
            (uid.ImplicitVRLittleEndian if implicit else uid.ExplicitVRLittleEndian)
            if little
            else uid.ExplicitVRBigEndian
        )
    return dataset


def _count_unparsed_bytes(element: Any) -> int:
    """Counts the bytes of a sequence that pydicom parses only on access, and then without a limit.

    Sequences of defined length are such. One of undefined length is parsed already, except what it contains.
    """
    if hasattr(element, "length"):  # a RawDataElement
        return len(element.value or b"")
    if element.VR != "SQ":
        return 0
    return sum(_count_unparsed_bytes(inner) for item in element.value for inner in item.values())


class _Bounded(io.BytesIO):
    """A file with a limit on the number of reads, since pydicom takes a microsecond for every data element."""

    reads = 0

    def read(self, size: int | None = -1, /) -> bytes:
        self.reads += 1
        if self.reads > _MOST_READS:
            raise UnreadableError(Message("dicom_elements", "the DICOM file has too many data elements"))
        return super().read(size)


def _inflate_body(content: bytes, *, limits: Limits) -> bytes:
    """Inflates the data elements of a file; pydicom would do that without a limit."""
    end = 144 + struct.unpack("<I", content[140:144])[0] if content[132:138] == b"\x02\x00\x00\x00UL" else 0
    if content.count(_DEFLATED) != 1 or _DEFLATED not in content[:end]:
        raise UnreadableError(_ODD_DEFLATED)
    plain = b"1.2.840.10008.1.2.1".ljust(len(_DEFLATED), b"\x00")
    body = inflate(content, window_bits=-15, limits=limits, start=end)
    if _DEFLATED in body:
        raise UnreadableError(_ODD_DEFLATED)
    return content[:end].replace(_DEFLATED, plain) + body


def _describe_content(dataset: Any) -> tuple[str, ...]:
    """Returns remarks on what the file says it shows."""
    image_type = dataset.get("ImageType") or ()
    return dicom_content.describe_unusual_content(
        str(dataset.get("Modality") or ""),
        str(dataset.get("BodyPartExamined") or ""),
        sop_class=str(dataset.get("SOPClassUID") or dataset.file_meta.get("MediaStorageSOPClassUID") or ""),
        image_type=[image_type] if isinstance(image_type, str) else [str(value) for value in image_type],
    )


def _check_header(library: ModuleType, dataset: Any, *, limits: Limits) -> int:
    """Checks the header and returns the number of frames.

    Raises:
      UnreadableError: no image, above the limits, an unsupported kind of pixels, or too few bytes.
    """
    kind = next((name for name in _PIXELS if name in dataset), None)
    if kind is None:
        raise UnreadableError(
            Message("dicom_no_image", "the DICOM file holds no image (perhaps a report, a plan or a directory)")
        )
    rows, columns = (dicom_display.parse_whole(dataset.get(name)) for name in ("Rows", "Columns"))
    count = dicom_display.parse_whole(dataset.get("NumberOfFrames") or 1)
    bits, samples = (
        dicom_display.parse_whole(dataset.get("BitsAllocated")),
        dicom_display.parse_whole(dataset.get("SamplesPerPixel") or 1),
    )
    check_size(width=columns, height=rows, slices=count, limits=limits)
    if samples not in (1, 3) or bits not in (1, 8, 16, 32, 64):
        raise UnreadableError(
            Message(
                "dicom_samples",
                "DICOM pixels with {samples} samples of {bits} bits are not supported",
                samples=samples,
                bits=bits,
            )
        )
    if dataset.file_meta.TransferSyntaxUID.is_encapsulated:
        dicom_compression.check(library, dataset, count)
    else:
        needed, there = -(-rows * columns * samples * bits * count // 8), len(dataset[kind].value or b"")
        if there < needed and "422" not in str(dataset.get("PhotometricInterpretation")):
            raise UnreadableError(f"the DICOM file is truncated: it has {there:,} of {needed:,} bytes of pixels")
    return count
