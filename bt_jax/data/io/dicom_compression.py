"""How the pixels of a DICOM file are compressed: whether they can be decoded here, and safely."""

import itertools
from collections.abc import Iterator
from types import ModuleType
from typing import Any

from bt_jax.common.messages import Message
from bt_jax.data.io.slices import UnreadableError

# How pixels may be compressed, by the transfer syntax, and the packages that then decode them besides Pillow.
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
    "1.2.840.10008.1.2.5": ("run lengths", ""),
}
_JP2_SIGNATURE = b"\x00\x00\x00\x0cjP  "


def check(library: ModuleType, dataset: Any, count: int) -> None:
    """Refuses what pydicom cannot decode, or would never come to the end of.

    Args:
      library: pydicom.
      dataset: of a file whose transfer syntax is a compressed one.
      count: the frames of it that will be decoded.

    Raises:
      UnreadableError: compressed in an unknown way, in one that needs another package, or damaged.
    """
    syntax = dataset.file_meta.TransferSyntaxUID
    name, package = _COMPRESSIONS.get(str(syntax), ("", ""))
    if not name:
        raise UnreadableError(
            Message(
                "dicom_compression",
                "its pixels are compressed in a way that is not read: store it uncompressed, or as JPEG 2000",
            )
        )
    if not library.pixels.get_decoder(syntax).is_available:
        raise UnreadableError(_describe_undecodable(name, package))
    if syntax in library.uid.JPEG2000TransferSyntaxes:
        for frame in _split_frames(library, dataset, count):
            _check_boxes(frame)


def _split_frames(library: ModuleType, dataset: Any, count: int) -> Iterator[bytes]:
    """The compressed frames, as pydicom's decoders get them."""
    offsets = None
    if "ExtendedOffsetTable" in dataset:
        offsets = (dataset.ExtendedOffsetTable, dataset.ExtendedOffsetTableLengths)
    frames = library.encaps.generate_frames(dataset.PixelData, number_of_frames=count, extended_offsets=offsets)
    return itertools.islice(frames, count)


def _check_boxes(frame: bytes) -> None:
    """Refuses a JP2 file (ISO/IEC 15444-1, annex I) where pydicom 3.0 would look for the box of the image for ever.

    It goes on by the length of each box before that one, which is 0 for one that reaches to the end of the file.
    """
    place = 12 if frame.startswith(_JP2_SIGNATURE) else len(frame)
    while place < len(frame) and frame[place + 4 : place + 8] != b"jp2c":
        length = int.from_bytes(frame[place : place + 4], "big")
        if length < 8:
            raise UnreadableError(
                Message("dicom_jp2_boxes", "the DICOM file is damaged: no image is found in its JPEG 2000 data")
            )
        place += length


def _describe_undecodable(name: str, package: str) -> Message:
    """What to do about pixels that are compressed in a way for which a package is missing, if there is one."""
    if package:
        text = "its pixels are compressed as {name}, which is not read: install {package}, or store it uncompressed"
        return Message("dicom_package", text, name=name, package=package)
    return Message(
        "dicom_decoder", "its pixels are compressed as {name}, which is not read: store it uncompressed", name=name
    )
