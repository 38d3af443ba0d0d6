"""Files that are no images are named, with what to do about them."""

import bz2
import gzip
import lzma
import struct

import numpy as np
import pytest

from bt_jax.data.io import file_reader
from bt_jax.data.io.slices import UnreadableError

MGH = struct.pack(">7ih", 1, 4, 4, 4, 1, 3, 0, 1) + bytes(254) + np.zeros(64, ">f4").tobytes()
OTHERS = {
    "brain.mgh": (MGH, "a FreeSurfer volume"),
    "brain.mgz": (gzip.compress(MGH), "a FreeSurfer volume"),
    "brain.nrrd": (b"NRRD0004\ntype: short\ndimension: 3\n", "an NRRD volume"),
    "brain.mha": (b"ObjectType = Image\nNDims = 3\n", "a MetaImage volume"),
    "brain.mhd": (b"NDims = 3\nDimSize = 4 4 4\n", "a MetaImage volume"),
    "brain.mif": (b"mrtrix image\ndim: 4,4,4\n", "an MRtrix volume"),
    "brain.hdr": (struct.pack("<i", 348) + bytes(344), "an Analyze header"),
    "brain.mnc": (b"CDF\x01" + bytes(40), "a MINC or NetCDF file"),
    "brain.PAR": (b"# === DATA DESCRIPTION FILE ====\n", "a PAR/REC header"),
    "brain+orig.HEAD": (b"\ntype = string-attribute\nname = TYPESTRING\n", "an AFNI header"),
    "white.gii": (b'<?xml version="1.0"?>\n<!DOCTYPE GIFTI>\n<GIFTI Version="1.0">', "a surface, or values on one"),
    "white.gii.gz": (gzip.compress(b'<?xml version="1.0"?>\n<GIFTI Version="1.0">'), r"\(GIFTI"),
    "tracts.trk": (b"TRACK\x00" + bytes(994), "fibre tracts"),
    "tracts.tck": (b"mrtrix tracks\ncount: 0\nEND\n", "fibre tracts"),
    "brain.nii.bz2": (bz2.compress(bytes(999)), "only gzip"),
    "brain.nii.xz": (lzma.compress(bytes(999)), "only gzip"),
    "brain.nii.zst": (b"\x28\xb5\x2f\xfd" + bytes(99), "only gzip"),
    "notes.csv.gz": (gzip.compress(b"path,label\n"), "neither a NIfTI volume nor a DICOM file"),
}  # fmt: skip


@pytest.mark.parametrize("name", OTHERS)
def test_what_is_no_image_is_named(name):
    content, said = OTHERS[name]
    with pytest.raises(UnreadableError, match=said) as caught:
        list(file_reader.read_slices(content))
    assert ": " in str(caught.value) and "damaged" not in str(caught.value)
