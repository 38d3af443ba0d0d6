"""Reading of untrusted bytes as grey slices: images, DICOM and NIfTI, distinguished by content, never by name."""

import warnings
from collections.abc import Iterator

from PIL import Image

from bt_jax.common.messages import Message
from bt_jax.data.io import decode, dicom, nifti
from bt_jax.data.io.slices import Limits, Slice, UnreadableError, compact, inflate

# Suffixes, in lower case, of the files that are read from a folder; the content decides the format.
SUFFIXES = decode.IMAGE_SUFFIXES | {".dcm", ".dicom", ".ima", ".nii"}  # and .nii.gz
# Number of bytes that identify the format.
START = 1024

_GZIP = b"\x1f\x8b"
_MORE_FRAMES = Message("more_frames", "The file has several frames, of which only the first was read.")
_IMAGES = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF8", b"BM", b"II*\x00", b"MM\x00*", b"RIFF", b"P4", b"P5", b"P6")
# Files that people mistake for images, and what to do about them.
_OTHERS = (
    (0, b"%PDF", Message("pdf", "not an image but a PDF document: export its pictures as PNG")),
    (
        0,
        b"PK\x03\x04",
        Message("zip", "not an image but a zip archive: unpack it"),
    ),
    (0, b"\x37\x7a\xbc\xaf\x27\x1c", Message("7z", "not an image but a 7z archive: unpack it")),
    (0, b"Rar!", Message("rar", "not an image but a RAR archive: unpack it")),
    (0, b"<", Message("markup", "not an image but text (HTML, XML or SVG): export the picture as PNG")),
    (
        0,
        b"\x00\x00\x00\x0cjP  ",
        Message("jpeg_2000", "a JPEG 2000 image outside of DICOM, which is not supported: convert it to PNG"),
    ),
    (
        4,
        b"ftyp",
        Message(
            "video_or_heic", "a video, or a HEIC or AVIF image, which are not supported: convert it to PNG or JPEG"
        ),
    ),
    (0, b"\x93NUMPY", Message("numpy", "not an image but a NumPy array: save it as PNG or NIfTI")),
    (0, b"\x89HDF", Message("hdf5", "not an image but an HDF5 or MATLAB file: save its images as PNG or NIfTI")),
    (0, b"MATLAB", Message("matlab", "not an image but a MATLAB file: save its images as PNG or NIfTI")),
    (0, b"8BPS", Message("photoshop", "not an image but a Photoshop document: export it as PNG")),
)


def silence_parsers() -> None:
    """Keeps warnings of the libraries about unusual files out of the output of a command; call it before reading."""
    warnings.filterwarnings("ignore", module=r"PIL(\..*)?|bt_jax\.data\.io\.decode")
    warnings.simplefilter("error", Image.DecompressionBombWarning)


def is_recognised(start: bytes) -> bool:
    """Returns whether the first bytes of a file are those of an image, DICOM file or volume."""
    return start.startswith(_IMAGES) or dicom.is_dicom(start) or nifti.is_nifti(start)


def is_compressed(content: bytes) -> bool:
    """Returns whether a file is compressed as a whole, so that reading it takes much more memory than its size."""
    return content[:2] == _GZIP or dicom.is_deflated(content)


def read_slices(content: bytes, *, limits: Limits | None = None) -> Iterator[Slice]:
    """Reads all slices of a file one by one: one from an image, several from a multi-frame DICOM file or a volume.

    Args:
      content: the bytes of the file.
      limits: limits on what the file may claim; None for the defaults.

    Raises:
      UnreadableError: the file cannot be read, or not to its end; the slices before the damage are yielded first.
    """
    limits = limits or Limits()
    if not content:
        raise UnreadableError(Message("empty", "the file is empty"))
    if len(content) > limits.file_bytes:
        raise UnreadableError(
            Message(
                "too_many_bytes",
                "{count} bytes are more than the limit of {limit}",
                count=len(content),
                limit=limits.file_bytes,
            )
        )
    start = content[:START]
    if content[:2] == _GZIP:
        content = inflate(content, window_bits=31, limits=limits)
        if not nifti.is_nifti(content[:START]):
            raise UnreadableError(Message("gzip", "compressed by gzip, but not a NIfTI volume: unpack it"))
        return nifti.read(content, limits=limits)
    if nifti.is_nifti(start):
        return nifti.read(content, limits=limits)
    if dicom.is_dicom(start):
        return dicom.read(content, limits=limits)
    return iter([_read_image(content, limits=limits)])


def _read_image(content: bytes, *, limits: Limits) -> Slice:
    try:
        image, more = decode.decode_first_frame(content, name="", max_pixels=limits.pixels)
    except decode.ImageError as error:
        for place, magic, what in _OTHERS:
            if content[place : place + len(magic)] == magic:
                raise UnreadableError(what) from None
        raise UnreadableError(error.reason) from None
    return Slice(compact(image), None, (_MORE_FRAMES,) if more else ())
