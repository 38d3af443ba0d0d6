"""Compression of DICOM pixels: whether they can be decoded here, and safely."""

import itertools
from collections.abc import Iterator
from types import ModuleType
from typing import Any

from bt_jax.common.messages import Message
from bt_jax.data.io.slices import UnreadableError

# Names of the compressions by transfer syntax, and the packages besides Pillow that decode them.
_COMPRESSIONS = {
    "1.2.840.10008.1.2.4.50": ("JPEG", ""),
    "1.2.840.10008.1.2.4.51": ("JPEG with 12 bits", "python-gdcm"),
    "1.2.840.10008.1.2.4.57": ("lossless JPEG", "python-gdcm"),
    "1.2.840.10008.1.2.4.70": ("lossless JPEG", "python-gdcm"),
    "1.2.840.10008.1.2.4.80": ("JPEG-LS", "pyjpegls"),
    "1.2.840.10008.1.2.4.81": ("JPEG-LS", "pyjpegls"),
    "1.2.840.10008.1.2.4.90": ("JPEG 2000", "python-gdcm"),
    "1.2.840.10008.1.2.4.91": ("JPEG 2000", "python-gdcm"),
    "1.2.840.10008.1.2.4.201": ("high-throughput JPEG 2000", ""),
    "1.2.840.10008.1.2.4.202": ("high-throughput JPEG 2000", ""),
    "1.2.840.10008.1.2.4.203": ("high-throughput JPEG 2000", ""),
    "1.2.840.10008.1.2.5": ("run lengths (RLE)", ""),
}
_JP2_SIGNATURE = b"\x00\x00\x00\x0cjP  "


def check(library: ModuleType, dataset: Any, count: int) -> None:
    """Raises for pixels that pydicom cannot decode, or on which it would not terminate.

    Args:
      library: pydicom.
      dataset: of a file with a compressed transfer syntax.
      count: number of frames to be decoded.

    Raises:
      UnreadableError: unknown compression, a missing package, or damaged data.
    """
    syntax = dataset.file_meta.TransferSyntaxUID
    name, package = _COMPRESSIONS.get(str(syntax), ("", ""))
    if not name:
        raise UnreadableError(
            Message(
                "dicom_compression",
                "the compression of its pixels is not supported: store it uncompressed, or as JPEG 2000",
            )
        )
    if not library.pixels.get_decoder(syntax).is_available:
        raise UnreadableError(_describe_undecodable(name, package))
    if syntax in library.uid.JPEG2000TransferSyntaxes:
        for frame in _split_frames(library, dataset, count):
            _check_boxes(frame)


def _split_frames(library: ModuleType, dataset: Any, count: int) -> Iterator[bytes]:
    """Yields the compressed frames as pydicom's decoders get them."""
    offsets = None
    if "ExtendedOffsetTable" in dataset:
        offsets = (dataset.ExtendedOffsetTable, dataset.ExtendedOffsetTableLengths)
    frames = library.encaps.generate_frames(dataset.PixelData, number_of_frames=count, extended_offsets=offsets)
    return itertools.islice(frames, count)


def _check_boxes(frame: bytes) -> None:
    """Raises for a JP2 file (ISO/IEC 15444-1, annex I) in which pydicom 3.0 would search the image box forever.

    It advances by the length of each box before that one, which is 0 for a box that extends to the end of the file.
    """
    place = 12 if frame.startswith(_JP2_SIGNATURE) else len(frame)
    while place < len(frame) and frame[place + 4 : place + 8] != b"jp2c":
        length = int.from_bytes(frame[place : place + 4], "big")
        if length < 8:
            raise UnreadableError(
                Message("dicom_jp2_boxes", "the DICOM file is damaged: its JPEG 2000 data contain no image")
            )
        place += length


def _describe_undecodable(name: str, package: str) -> Message:
    """Describes pixels that cannot be decoded, and the package that would decode them, if there is one."""
    if package:
        text = "its pixels are compressed as {name}, which needs {package}: install it, or store the file uncompressed"
        return Message("dicom_package", text, name=name, package=package)
    return Message(
        "dicom_decoder", "its pixels are compressed as {name}, which is not supported: store it uncompressed", name=name
    )
