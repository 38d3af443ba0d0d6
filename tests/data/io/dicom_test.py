"""DICOM files as a viewer shows them, and what never leaves them."""

import gzip
import io
import subprocess
import sys

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset

from bt_jax.data.io import decode, file_reader
from bt_jax.data.io import dicom as dicom_module
from bt_jax.data.io.slices import Limits, UnreadableError
from tests import hostile_inputs, medical_files, runs
from tests.medical_files import dicom

# pydicom warns of odd files, in a command to nobody: see `dicom._import_pydicom`.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")

GREY = hostile_inputs.scan()
DEEP = GREY.astype(np.uint16) * 16 + (np.arange(64) % 16).astype(np.uint16)  # up to 12 bits


def one(content: bytes):
    """The only slice of a file."""
    (found,) = file_reader.read_slices(content)
    assert found.number is None
    return found


@pytest.mark.parametrize("pixels", [GREY, DEEP, GREY.astype(np.uint16), GREY.astype(np.int16)])
def test_stored_values_are_the_pixels_of_a_png(pixels):
    image = one(dicom(pixels)).image
    expected = one(decode.encode_png(GREY if pixels.max() < 256 else pixels)).image
    assert image.dtype == expected.dtype
    np.testing.assert_array_equal(image, expected)


@pytest.mark.real_data
def test_a_real_slice_is_the_same_as_dicom(real_directory):
    paths = sorted((real_directory / "Training").rglob("*.jpg"))
    assert paths
    for path in paths[:: len(paths) // 12]:
        grey = decode.decode_image(path.read_bytes(), name=path.name)
        forms = [
            dicom(grey),
            dicom(grey, WindowCenter=128, WindowWidth=256),
            dicom(255 - grey, PhotometricInterpretation="MONOCHROME1"),
            dicom(grey.astype(np.int16) - 1024, RescaleIntercept="1024", RescaleSlope="1"),
            dicom(
                grey.astype(np.int16) * 3, RescaleIntercept="-24", RescaleSlope="1", WindowCenter="359", WindowWidth=766
            ),
            dicom(grey.astype(np.uint16) * 16, BitsStored=12, HighBit=11, WindowCenter=2048, WindowWidth=4096),
            dicom(np.stack([grey] * 3, -1)),
        ]
        for content in forms:
            np.testing.assert_array_equal(one(content).image, grey)


def test_frames_are_slices():
    frames = np.stack([GREY, GREY[::-1], GREY[:, ::-1]])
    found = list(file_reader.read_slices(dicom(frames, frames=3)))
    assert [slice_.number for slice_ in found] == [1, 2, 3]
    np.testing.assert_array_equal(np.stack([slice_.image for slice_ in found]), frames)
    with pytest.raises(UnreadableError, match="3 slices are more than the limit of 2"):
        list(file_reader.read_slices(dicom(frames, frames=3), limits=Limits(slices=2)))


@pytest.mark.parametrize("name", ["implicit.dcm", "no_preamble.dcm", "deflated.dcm", "run_lengths.dcm", "jpeg_2000.dcm",
                                  "tiff_in_the_preamble.dcm", "gif_and_dicom"])  # fmt: skip
def test_however_the_file_is_written_the_pixels_are_the_same(name):
    np.testing.assert_array_equal(one(hostile_inputs.corpus()[name]).image, GREY)


def test_big_endian_without_a_preamble():
    made = medical_files.dataset(DEEP.byteswap(), syntax="1.2.840.10008.1.2.2")
    content = medical_files.encoded(made, implicit_vr=False, little_endian=False)
    np.testing.assert_array_equal(one(content).image, DEEP)
    start = content.index(b"\x00\x08\x00")  # the first data element after the file meta information
    np.testing.assert_array_equal(one(content[start:]).image, DEEP)


@pytest.mark.parametrize("members", [1, 3])
def test_a_file_compressed_by_gzip_is_read(members):
    content = dicom(DEEP)
    parts = np.array_split(np.frombuffer(content, np.uint8), members)
    packed = b"".join(gzip.compress(part.tobytes()) for part in parts)
    np.testing.assert_array_equal(one(packed).image, DEEP)


def test_what_is_no_mri_of_a_head_is_said():
    assert one(dicom(GREY)).warnings == ()
    assert one(dicom(GREY, Modality=None, BodyPartExamined=None)).warnings == ()
    assert one(dicom(GREY, BodyPartExamined="HEADNECK")).warnings == ()
    ct, chest = one(dicom(GREY, Modality="CT", BodyPartExamined=f"LEG OF {medical_files.SECRET}"[:16])).warnings
    assert ct == "The file is marked as CT, not MRI: the model is trained on MRI only."
    assert chest == "The file is marked as showing another body part than the head."


def with_undefined_lengths(made: Dataset, *, items: bool) -> Dataset:
    """Sets the length of all sequences, and if asked of their items, to be undefined."""
    for element in made:
        if element.VR == "SQ":
            element.is_undefined_length = True
            for item in element.value:
                item.is_undefined_length_sequence_item = items
                with_undefined_lengths(item, items=items)
    return made


def has_sequences(content: bytes) -> bool:
    return content[128:132] == b"DICM" and any(element.VR == "SQ" for element in pydicom.dcmread(io.BytesIO(content)))


SEQUENCES = [name for name, content in hostile_inputs.intact().items() if has_sequences(content)]


@pytest.mark.parametrize("items", [False, True])
@pytest.mark.parametrize("name", SEQUENCES)
def test_sequences_of_undefined_length_are_read_as_others(name, items):
    content = hostile_inputs.intact()[name]
    made = with_undefined_lengths(pydicom.dcmread(io.BytesIO(content)), items=items)
    undefined = medical_files.encoded(made)
    assert b"SQ\x00\x00\xff\xff\xff\xff" in undefined
    expected = list(file_reader.read_slices(content))
    for found, other in zip(file_reader.read_slices(undefined), expected, strict=True):
        np.testing.assert_array_equal(found.image, other.image)
        assert found.warnings == other.warnings


def test_sequences_are_limited_whatever_their_length(monkeypatch):
    assert {"enhanced.dcm", "voi_table.dcm", "modality_table.dcm"} <= set(SEQUENCES)
    monkeypatch.setattr(dicom_module, "_MOST_SEQUENCE_BYTES", 99)
    inner, outer = Dataset(), Dataset()
    inner.add_new("LUTData", "OW", bytes(200))
    outer.FrameVOILUTSequence = [inner]
    for undefined in (False, True):
        made = medical_files.dataset(GREY, SharedFunctionalGroupsSequence=[outer])
        made["SharedFunctionalGroupsSequence"].is_undefined_length = undefined
        with pytest.raises(UnreadableError, match="too much data about its frames"):
            one(medical_files.encoded(made))


@pytest.mark.parametrize(
    ("tags", "shape"),
    [
        ({"PixelSpacing": [1, 1]}, (48, 64)),
        ({"PixelSpacing": [0.5, 0.501]}, (48, 64)),  # rounded
        ({"PixelSpacing": [2, 1]}, (96, 64)),  # the distance of rows comes first
        ({"PixelSpacing": ["0.5", "1"]}, (48, 128)),
        ({"PixelAspectRatio": [3, 2]}, (72, 64)),  # the height comes first
        ({"PixelAspectRatio": [1, 1]}, (48, 64)),
        ({"ImagerPixelSpacing": [1, 1.25]}, (48, 80)),
        ({"NominalScannedPixelSpacing": [1.5, 1]}, (72, 64)),
        ({"PixelSpacing": [1, 1], "PixelAspectRatio": [2, 1]}, (48, 64)),  # what is measured counts
        ({"PixelSpacing": [0, 1]}, (48, 64)),
        ({"PixelSpacing": "1"}, (48, 64)),
        ({"PixelSpacing": [-1, 2]}, (48, 64)),
    ],
)
def test_pixels_that_are_not_square_become_square(tags, shape):
    found = one(dicom(GREY, **tags))
    assert found.image.shape == shape and found.image.dtype == np.uint8
    assert found.warnings == ()


def test_frames_may_have_a_spacing_of_their_own():
    measures, shared = Dataset(), Dataset()
    measures.PixelSpacing = [2, 1]
    shared.PixelMeasuresSequence = [measures]
    made = medical_files.dataset(np.stack([GREY] * 2), frames=2, SharedFunctionalGroupsSequence=[shared])
    assert [found.image.shape for found in file_reader.read_slices(medical_files.encoded(made))] == [(96, 64)] * 2


def test_a_spacing_that_cannot_be_is_ignored_with_a_warning():
    found = one(dicom(GREY, PixelSpacing=[1, 1000]))
    assert found.image.shape == (48, 64)
    assert found.warnings == ("The file claims implausibly elongated pixels, so its pixel spacing was ignored.",)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("cut_60_plain.dcm", "truncated: it has 1,5.. of 3,072 bytes"),
        ("cut_60_run_lengths.dcm", "its pixels have no end"),
        ("no_pixels.dcm", "holds no image"),
        ("many_rows.dcm", "65535x65535 pixels are more than the limit of 64,000,000"),
        ("many_frames.dcm", "2,000,000,000 slices are more than the limit"),
        (
            "lossless_jpeg.dcm",
            "as lossless JPEG, which cannot be decoded here: run python -m pip install pylibjpeg pylibjpeg-libjpeg, or",
        ),
        ("video.dcm", "the compression of its pixels is not supported"),
        ("nested_20000.dcm", "damaged or unusual"),
    ],
)
def test_what_is_wrong_with_a_file(name, said):
    with pytest.raises(UnreadableError, match=said):
        list(file_reader.read_slices(hostile_inputs.corpus()[name]))


def test_a_deflated_file_is_not_unpacked_without_a_limit():
    content = hostile_inputs.corpus()["deflate_bomb.dcm"]
    assert file_reader.is_compressed(content)
    with pytest.raises(UnreadableError, match="more than the limit of 100,000 bytes"):
        list(file_reader.read_slices(content, limits=Limits(unpacked_bytes=100_000)))


def test_no_text_of_a_file_gets_out():
    """Neither in what is returned nor in an error, whatever byte is damaged."""
    content = dicom(GREY[:4, :4], RescaleSlope="1", WindowCenter=900, WindowWidth=1500)
    generator = np.random.default_rng(3)
    errors = 0
    for place in range(130, len(content) - 16, 3):
        damaged = bytearray(content)
        damaged[place] ^= int(generator.integers(1, 256))
        try:
            said = " ".join(w for slice_ in file_reader.read_slices(bytes(damaged)) for w in slice_.warnings)
        except UnreadableError as error:
            said, errors = str(error), errors + 1
        assert medical_files.SECRET.lower() not in said.lower()
        assert "\n" not in said
    assert errors > 20


def test_without_pydicom_one_line_names_the_extra(tmp_path):
    (tmp_path / "scan.dcm").write_bytes(dicom(GREY))
    program = (
        "import sys; sys.modules['pydicom'] = None; from bt_jax.data.io import file_reader as reading\n"
        f"list(reading.read_slices(open({str(tmp_path / 'scan.dcm')!r}, 'rb').read()))"
    )
    ended = runs.run([sys.executable, "-c", program])
    assert "UnreadableError: DICOM files need further packages: python -m pip install nibabel pydicom" in ended.stderr


def test_pydicom_is_loaded_for_dicom_alone():
    program = (
        "import sys; from bt_jax.data.io import file_reader as reading\n"
        "assert 'pydicom' not in sys.modules and 'nibabel' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], cwd=runs.ROOT, check=True)
