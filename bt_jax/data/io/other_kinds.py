"""Files that people mistake for images: what they are, and what to do about them."""

import struct

from bt_jax.common.messages import Message

_OF_FREESURFER = Message("mgz", "a FreeSurfer volume (.mgz or .mgh), which is not supported: convert it to NIfTI")
_META_IMAGE = Message("metaimage", "a MetaImage volume (.mha or .mhd), which is not supported: convert it to NIfTI")
_ANALYZE = Message("analyze", "an Analyze header (.hdr and .img), which is not supported: convert it to NIfTI")
_TRACTS = Message("tracts", "not an image but fibre tracts: use the volume that they were computed from")
_SURFACE = Message("gifti", "not an image but a surface, or values on one (GIFTI): use the volume it was computed from")
_BY_OTHER_PACKER = Message("packed", "compressed by a program that is not supported (only gzip is): unpack it")
_OTHERS = (
    (0, b"%PDF", Message("pdf", "not an image but a PDF document: export its pictures as PNG")),
    (
        0,
        b"PK\x03\x04",
        Message("zip", "not an image but a zip archive: unpack it"),
    ),
    (0, b"\x37\x7a\xbc\xaf\x27\x1c", Message("7z", "not an image but a 7z archive: unpack it")),
    (0, b"Rar!", Message("rar", "not an image but a RAR archive: unpack it")),
    (0, b"NRRD", Message("nrrd", "an NRRD volume, which is not supported: convert it to NIfTI")),
    (0, b"ObjectType", _META_IMAGE),
    (0, b"NDims", _META_IMAGE),
    (0, b"CDF\x01", Message("minc", "a MINC or NetCDF file, which is not supported: convert it to NIfTI")),
    (0, b"mrtrix image", Message("mrtrix", "an MRtrix volume (.mif), which is not supported: convert it to NIfTI")),
    (
        0,
        b"# === DATA DESCRIPTION FILE",
        Message("par_rec", "a PAR/REC header, which is not supported: convert it to NIfTI"),
    ),
    (0, b"\ntype = string-attribute", Message("afni", "an AFNI header, which is not supported: convert it to NIfTI")),
    (0, b"TRACK\x00", _TRACTS),
    (0, b"mrtrix tracks", _TRACTS),
    (0, b"BZh", _BY_OTHER_PACKER),
    (0, b"\xfd7zXZ\x00", _BY_OTHER_PACKER),
    (0, b"\x28\xb5\x2f\xfd", _BY_OTHER_PACKER),
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


def find_other_kind(content: bytes) -> Message | None:
    """Returns what a file that is no image is, as far as its first bytes show it."""
    if content[:1] == b"<" and b"<GIFTI" in content[:4096]:
        return _SURFACE
    if content[:4] in (b"\x5c\x01\x00\x00", b"\x00\x00\x01\x5c") and len(content) >= 348:  # 348, without NIfTI's mark
        return _ANALYZE
    if _is_freesurfer(content[:28]):
        return _OF_FREESURFER
    return next((what for place, magic, what in _OTHERS if content[place : place + len(magic)] == magic), None)


def _is_freesurfer(start: bytes) -> bool:
    """Returns whether 28 bytes begin an MGH file: version 1, four dimensions and one of four types."""
    if len(start) < 28:
        return False
    version, *shape, kind, _ = struct.unpack(">7i", start)
    return version == 1 and all(0 < length < 2**20 for length in shape) and kind in (0, 1, 3, 4)
