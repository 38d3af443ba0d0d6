"""Compressed pixels that pydicom would never come to the end of; other kinds of compression are in dicom_test."""

import struct

import pytest
from pydicom.encaps import encapsulate, encapsulate_extended

from bt_jax.data.io import dicom
from bt_jax.data.io.slices import Limits, UnreadableError
from tests import fuzzing, hostile_inputs, medical_files

JP2 = hostile_inputs.image(kind="JPEG2000", irreversible=False)
ENDLESS = JP2.replace(b"\0\0\0\x14ftyp", bytes(4) + b"ftyp")
assert JP2 != ENDLESS


def file_of(frames, *, fragments=1, extended=False):
    made = medical_files.dataset(hostile_inputs.scan(), syntax="1.2.840.10008.1.2.4.90")
    made.NumberOfFrames = len(frames)
    if extended:
        made.PixelData, made.ExtendedOffsetTable, made.ExtendedOffsetTableLengths = encapsulate_extended(frames)
    else:
        made.PixelData = encapsulate(frames, fragments_per_frame=fragments)
    made["PixelData"].is_undefined_length = True
    made["PixelData"].VR = "OB"
    return medical_files.encoded(made, implicit_vr=False, little_endian=True, enforce_file_format=False)


@pytest.mark.parametrize("how", [{}, {"fragments": 100}, {"extended": True}])
def test_boxes_without_end_are_refused_wherever_they_are(how):
    assert fuzzing.check(file_of([JP2, JP2], **how))
    for frames in ([ENDLESS], [JP2, ENDLESS]):
        with pytest.raises(UnreadableError, match="its JPEG 2000 data contain no image"):
            list(dicom.read(file_of(frames, **how), limits=Limits()))


@pytest.mark.parametrize("length", [0, 1, 7, 8, 2**31])
def test_a_box_of_any_length_comes_to_an_end(length):
    """Most of these lengths lead to what is no box."""
    place = JP2.index(b"jp2h") - 4
    fuzzing.check(file_of([JP2[:place] + struct.pack(">I", length) + JP2[place + 4 :]]))


def test_a_codestream_without_boxes_is_read():
    bare = JP2[JP2.index(b"jp2c") + 4 :]
    assert len(list(dicom.read(file_of([bare]), limits=Limits()))) == 1
