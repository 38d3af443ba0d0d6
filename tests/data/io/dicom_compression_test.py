"""Compressed pixels: their sign, decoders that are missing, and data that pydicom would never come to the end of."""

import struct

import numpy as np
import pytest
from PIL import Image
from pydicom.encaps import encapsulate, encapsulate_extended

from bt_jax.data.io import dicom, dicom_compression
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


def jpeg_2000(values, *, bits, signed_header, signed_data):
    """A file of JPEG 2000 whose data and header say whether values are signed, with the values in two's complement."""
    unsigned = (values % 2**bits).astype(np.uint16)
    made = medical_files.dataset(unsigned, syntax="1.2.840.10008.1.2.4.90")
    made.BitsStored, made.HighBit, made.PixelRepresentation = bits, bits - 1, int(signed_header)
    # Pillow writes 16 bits without a sign, and the sign and bits are in one byte of the header of the data (Ssiz).
    stored = (values % 2**16 ^ (0x8000 if signed_data else 0)).astype(np.uint16)
    data = bytearray(hostile_inputs.image(Image.fromarray(stored), "JPEG2000", irreversible=False))
    del data[: data.index(b"\xff\x4f\xff\x51")]
    assert data[42] == 15
    data[42] |= 0x80 if signed_data else 0
    made.PixelData = encapsulate([bytes(data)])
    made["PixelData"].is_undefined_length = True
    made["PixelData"].VR = "OB"
    return medical_files.encoded(made, implicit_vr=False, little_endian=True, enforce_file_format=False)


@pytest.mark.parametrize("signed_header", [False, True])
@pytest.mark.parametrize("signed_data", [False, True])
def test_the_sign_is_that_of_the_header(signed_header, signed_data):
    low = -2000 if signed_header else 0
    values = np.linspace(low, low + 40_000 if not signed_header else 30_000, 48 * 64).astype(np.int64).reshape(48, 64)
    content = jpeg_2000(values, bits=16, signed_header=signed_header, signed_data=signed_data)
    (found,) = dicom.read(content, limits=Limits())
    np.testing.assert_array_equal(found.image, values - low)


@pytest.mark.parametrize("bits", [8, 12, 13, 16])
def test_a_changed_sign_keeps_the_bits(bits):
    values = np.arange(-(2 ** (bits - 1)), 2 ** (bits - 1))
    unsigned = (values % 2**bits).astype(np.uint16)
    np.testing.assert_array_equal(dicom_compression._change_sign(unsigned, bits, signed=True), values)
    np.testing.assert_array_equal(dicom_compression._change_sign(values, bits, signed=False), unsigned)


@pytest.mark.parametrize(
    ("syntax", "package"),
    [
        ("51", "libjpeg"),
        ("57", "libjpeg"),
        ("70", "libjpeg"),
        ("80", "libjpeg"),
        ("81", "libjpeg"),
        ("201", "openjpeg"),
    ],
)
def test_what_cannot_be_decoded_here_is_not_called_damaged(syntax, package):
    made = medical_files.dataset(hostile_inputs.scan().astype(np.uint16), syntax=f"1.2.840.10008.1.2.4.{syntax}")
    made.BitsStored, made.HighBit = 12, 11
    made.PixelData = encapsulate([hostile_inputs.image(kind="JPEG")])
    made["PixelData"].is_undefined_length = True
    made["PixelData"].VR = "OB"
    content = medical_files.encoded(made, implicit_vr=False, little_endian=True, enforce_file_format=False)
    with pytest.raises(UnreadableError, match=f"be decoded here: run .* pylibjpeg pylibjpeg-{package}, or") as caught:
        list(dicom.read(content, limits=Limits()))
    assert "damaged" not in str(caught.value)


def test_where_a_decoder_fails_another_is_named():
    with pytest.raises(UnreadableError, match=r"they are damaged, or need .*pip install pylibjpeg pylibjpeg-openjpeg"):
        list(dicom.read(file_of([JP2[:200]]), limits=Limits()))
