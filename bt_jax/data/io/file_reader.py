"""Reading of untrusted bytes as grey slices: images, DICOM and NIfTI, distinguished by content, never by name."""

import warnings
from collections.abc import Iterator

from PIL import Image

from bt_jax.common.messages import Message
from bt_jax.data.io import decode, dicom, nifti
from bt_jax.data.io.other_kinds import find_other_kind
from bt_jax.data.io.slices import Limits, Slice, UnreadableError, compact, inflate

# Suffixes, in lower case, of the files that are read from a folder; the content decides the format.
SUFFIXES = decode.IMAGE_SUFFIXES | {".dcm", ".dicom", ".ima", ".nii"}  # and packed by gzip
# Number of bytes that identify the format.
START = 1024

_GZIP = b"\x1f\x8b"
_MORE_FRAMES = Message("more_frames", "The file has several frames, of which only the first was read.")
_IMAGES = (
    b"\xff\xd8\xff",
    b"\x89PNG\r\n\x1a\n",
    b"GIF8",
    b"BM",
    b"II*\x00",
    b"MM\x00*",
    b"II+\x00",
    b"MM\x00+",
    b"RIFF",
    b"P4",
    b"P5",
    b"P6",
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
        start = content[:START]
        if not nifti.is_nifti(start) and not dicom.is_dicom(start):
            raise UnreadableError(
                find_other_kind(content)
                or Message("gzip", "compressed by gzip, but neither a NIfTI volume nor a DICOM file: unpack it")
            )
    if nifti.is_nifti(start):
        return nifti.read(content, limits=limits)
    if dicom.is_dicom(start):
        return dicom.read(content, limits=limits)
    return iter([_read_image(content, limits=limits)])


def _read_image(content: bytes, *, limits: Limits) -> Slice:
    try:
        image, more = decode.decode_first_frame(content, name="", max_pixels=limits.pixels)
    except decode.ImageError as error:
        raise UnreadableError(find_other_kind(content) or error.reason) from None
    return Slice(compact(image), None, (_MORE_FRAMES,) if more else ())
