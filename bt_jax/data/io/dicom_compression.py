"""Compression of DICOM pixels: whether they can be decoded here, and safely."""

import itertools
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import numpy as np

from bt_jax.common.messages import Message
from bt_jax.data.io.slices import UnreadableError

_LIBJPEG, _OPENJPEG = "pylibjpeg pylibjpeg-libjpeg", "pylibjpeg pylibjpeg-openjpeg"
# Names of the compressions by transfer syntax, and the packages besides Pillow by which pydicom decodes them.
_COMPRESSIONS = {
    "1.2.840.10008.1.2.4.50": ("JPEG", _LIBJPEG),
    "1.2.840.10008.1.2.4.51": ("JPEG with 12 bits", _LIBJPEG),
    "1.2.840.10008.1.2.4.57": ("lossless JPEG", _LIBJPEG),
    "1.2.840.10008.1.2.4.70": ("lossless JPEG", _LIBJPEG),
    "1.2.840.10008.1.2.4.80": ("JPEG-LS", _LIBJPEG),
    "1.2.840.10008.1.2.4.81": ("JPEG-LS", _LIBJPEG),
    "1.2.840.10008.1.2.4.90": ("JPEG 2000", _OPENJPEG),
    "1.2.840.10008.1.2.4.91": ("JPEG 2000", _OPENJPEG),
    "1.2.840.10008.1.2.4.201": ("high-throughput JPEG 2000", _OPENJPEG),
    "1.2.840.10008.1.2.4.202": ("high-throughput JPEG 2000", _OPENJPEG),
    "1.2.840.10008.1.2.4.203": ("high-throughput JPEG 2000", _OPENJPEG),
    "1.2.840.10008.1.2.5": ("run lengths (RLE)", ""),
}
_INSTALL = "python -m pip install "
_JPEG_12_BITS = "1.2.840.10008.1.2.4.51"
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
    plugins = library.pixels.get_decoder(syntax).available_plugins
    # pydicom calls Pillow a decoder of this syntax, though Pillow decodes 8 bits only.
    if str(syntax) == _JPEG_12_BITS and dataset.get("BitsStored") != 8:
        plugins = tuple(plugin for plugin in plugins if plugin != "pillow")
    if not plugins:
        text = (
            "its pixels are compressed as {name}, which cannot be decoded here: run {command}, or store it uncompressed"
        )
        raise UnreadableError(Message("dicom_package", text, name=name, command=_INSTALL + package))
    if _is_jpeg_2000(library, dataset):
        for frame in _split_frames(library, dataset, count):
            _check_boxes(frame)


def iterate_frames(library: ModuleType, dataset: Any, count: int) -> Iterator[np.ndarray]:
    """Yields the stored values of the first `count` frames.

    Raises:
      UnreadableError: all decoders that are installed fail, where one that is not installed may succeed.
    """
    options, bits, signed = {}, 0, False
    if _is_jpeg_2000(library, dataset):
        # pydicom 3.0 corrects the sign in an array that it cannot write to, so this is done here.
        options = {"apply_j2k_sign_correction": False}
        bits, signed = _find_wrong_sign(library, dataset, count)
        if bits:
            dataset.PixelRepresentation = int(not signed)
    try:
        for pixels in itertools.islice(library.pixels.iter_pixels(dataset, **options), count):
            yield _change_sign(pixels, bits, signed=signed) if bits else pixels
    except (RuntimeError, NotImplementedError):  # what pydicom raises if all decoders failed
        syntax = dataset.file_meta.TransferSyntaxUID
        name, package = _COMPRESSIONS.get(str(syntax), ("", ""))
        if not package or "pylibjpeg" in library.pixels.get_decoder(syntax).available_plugins:
            raise
        text = "its pixels, compressed as {name}, cannot be decoded here: they are damaged, or need {command}"
        raise UnreadableError(Message("dicom_undecodable", text, name=name, command=_INSTALL + package)) from None


def _is_jpeg_2000(library: ModuleType, dataset: Any) -> bool:
    """Returns whether the pixels are compressed as JPEG 2000."""
    return bool(dataset.file_meta.TransferSyntaxUID in library.uid.JPEG2000TransferSyntaxes)


def _find_wrong_sign(library: ModuleType, dataset: Any, count: int) -> tuple[int, bool]:
    """Finds grey values whose sign in the JPEG 2000 data differs from that in the header, which is right.

    Returns:
      The bits of a value, or 0 if the signs agree; whether the values are signed.
    """
    signed = dataset.get("PixelRepresentation") == 1
    found = library.pixels.utils.get_j2k_parameters(next(_split_frames(library, dataset, count), b""))
    differs = found.get("is_signed", signed) != signed and dataset.get("SamplesPerPixel", 1) == 1
    return (int(found["precision"]) if differs else 0), signed


def _change_sign(pixels: np.ndarray, bits: int, *, signed: bool) -> np.ndarray:
    """Reads integers of so many bits as signed ones in two's complement, or as unsigned ones."""
    values = pixels.astype(np.int64) % 2**bits
    return values - 2**bits * (values >= 2 ** (bits - 1)) if signed else values


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
