"""NIfTI volumes, slice by slice, as radiologists look at them."""

import gzip
import struct
import sys

import nibabel
import numpy as np
import pytest
from PIL import Image

from bt_jax.data.io import file_reader
from bt_jax.data.io.slices import Limits, UnreadableError
from tests import hostile_inputs, runs
from tests.medical_files import nifti

# A head in which every direction is told apart: x to the right, y to the front, z to the top of the head.
VOLUME = (np.arange(5)[:, None, None] * 20 + np.arange(6)[:, None] * 3 + np.arange(4)).astype(np.int16)  # [5, 6, 4]
AXIAL = np.diag([1, 1, 5, 1.0])


def images(content: bytes) -> list[np.ndarray]:
    return [slice_.image for slice_ in file_reader.read_slices(content)]


def axial(z: int) -> np.ndarray:
    """The front is at the top, the patient's right on the left: [6, 5]."""
    return VOLUME[::-1, ::-1, z].T


def test_axial_slices_are_upright_with_the_right_on_the_left():
    found = list(file_reader.read_slices(nifti(VOLUME, AXIAL)))
    assert [slice_.number for slice_ in found] == [1, 2, 3, 4]
    for z, slice_ in enumerate(found):
        assert slice_.image.dtype == np.uint8 and slice_.warnings == ()
        np.testing.assert_array_equal(slice_.image, axial(z))


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1), (1, 2, 0), (1, 0, 2)])
@pytest.mark.parametrize("flips", [(1, 1, 1), (-1, 1, 1), (1, -1, -1), (-1, -1, -1)])
def test_however_the_voxels_are_stored_the_slices_look_the_same(order, flips):
    stored = VOLUME[:: flips[0], :: flips[1], :: flips[2]].transpose(order)
    affine = np.zeros((4, 4))
    affine[3, 3] = 1
    for axis, body in enumerate(order):
        affine[body, axis] = flips[body] * (5 if body == 2 else 1)
    found = images(nifti(np.ascontiguousarray(stored), affine))
    if flips[2] < 0:
        found = found[::-1]  # counted as the file has them
    for z in range(4):
        np.testing.assert_array_equal(found[z], axial(z))


def test_slices_lie_across_the_widest_spacing():
    sagittal = images(nifti(VOLUME, np.diag([6, 1, 1, 1.0])))
    assert len(sagittal) == 5
    np.testing.assert_array_equal(sagittal[2], VOLUME[2, ::-1, ::-1].T)  # the nose on the left
    coronal = images(nifti(VOLUME, np.diag([1, 3, 1, 1.0])))
    assert len(coronal) == 6
    np.testing.assert_array_equal(coronal[1], VOLUME[::-1, 1, ::-1].T)
    assert len(images(nifti(VOLUME, np.diag([1.1, 1, 1, 1.0])))) == 4  # nothing stands out: axial


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("kind", ["u1", "<i2", ">i2", "i4", "f4", "f8"])
def test_versions_types_and_compression(version, packed, kind):
    found = images(nifti(VOLUME.astype(kind), AXIAL, packed=packed, version=version))
    np.testing.assert_array_equal(found[3], axial(3))


def test_a_series_of_volumes_and_a_flat_one():
    found = list(file_reader.read_slices(nifti(np.stack([VOLUME, VOLUME * 2], -1), AXIAL)))
    assert len(found) == 4
    np.testing.assert_array_equal(found[1].image, axial(1))
    assert found[0].warnings == ("The file has several volumes, of which only the first was read.",)
    (flat,) = file_reader.read_slices(nifti(VOLUME[:, :, 1]))
    np.testing.assert_array_equal(flat.image, axial(1))
    assert flat.number is None


def test_a_file_that_does_not_say_how_the_head_lies():
    found = list(file_reader.read_slices(hostile_inputs.corpus()["nowhere.nii"]))
    assert found[0].warnings == ("The file does not define an orientation, so slices may be rotated or mirrored.",)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("cut_60_volume.nii", "truncated: it has .* of 24,576 bytes"),
        ("huge.nii", "truncated: it has 240 of 70,362,301,923,326 bytes"),
        ("two_files.nii", "in two files"),
        ("complex.nii", "truncated: it has 240 of 960 bytes"),
        ("cut_60_volume.nii.gz", "truncated"),
        ("picture.nii.gz", "by gzip, but neither a NIfTI volume nor a DICOM file"),
        ("dimensions_of_200.nii", "damaged or unusual"),
    ],
)
def test_what_is_wrong_with_a_file(name, said):
    with pytest.raises(UnreadableError, match=said):
        list(file_reader.read_slices(hostile_inputs.corpus()[name]))


@pytest.mark.parametrize(
    ("code", "kind"),
    [(1004, "matrices"), (1006, "vectors"), (1007, "vectors"), (2006, "vectors"), (1008, "a surface"),
     (1009, "a surface"), (2001, "values on a surface"), (2005, "a surface"), (3001, "CIFTI"), (3012, "CIFTI")],
)  # fmt: skip
@pytest.mark.parametrize("version", [1, 2])
def test_surfaces_and_connectivity_are_refused(code, kind, version):
    with pytest.raises(UnreadableError, match=f"the NIfTI file holds .*{kind}.*, not an image"):
        images(with_intent(code, version=version))


def with_intent(code: int, *, version: int = 1) -> bytes:
    """A volume whose header says what its values are."""
    content = bytearray(nifti(VOLUME, AXIAL, version=version))
    place, form = (68, "<h") if version == 1 else (504, "<i")
    struct.pack_into(form, content, place, code)
    return bytes(content)


def test_connectivity_without_its_code_is_known_by_its_extension():
    image = nibabel.Nifti2Image(np.zeros((1, 1, 1, 1, 8, 9), np.float32), np.eye(4))
    image.header.extensions.append(nibabel.nifti1.Nifti1Extension(32, b"<CIFTI/>"))
    with pytest.raises(UnreadableError, match="CIFTI"):
        images(image.to_bytes())


@pytest.mark.parametrize(
    ("code", "kind"), [(3, "a statistical map"), (5, "a statistical map"), (1002, "a segmentation")]
)
def test_what_was_computed_from_images_is_remarked_on(code, kind):
    for slice_ in file_reader.read_slices(with_intent(code)):
        assert slice_.warnings == (f"The file is marked as {kind}, not MRI: the model is trained on MRI only.",)


@pytest.mark.parametrize("channels", ["RGB", "RGBA"])
def test_colours_become_grey_with_a_warning(channels):
    kind = np.dtype([(name, "u1") for name in channels])
    coloured = np.zeros(VOLUME.shape, kind)
    coloured["R"], coloured["G"], coloured["B"] = VOLUME * 2, VOLUME, VOLUME // 2
    found = list(file_reader.read_slices(nibabel.Nifti1Image(coloured, AXIAL).to_bytes()))
    for z, slice_ in enumerate(found):
        colour = np.stack([axial(z) * 2, axial(z), axial(z) // 2], -1).astype(np.uint8)
        np.testing.assert_array_equal(slice_.image, np.asarray(Image.fromarray(colour).convert("L")))
        assert [warning.code for warning in slice_.warnings] == ["nifti_colours"]


@pytest.mark.parametrize("kind", ["c8", "c16"])
def test_complex_numbers_are_shown_by_their_magnitude(kind):
    volume = (VOLUME * (0.6 + 0.8j)).astype(kind)
    found = list(file_reader.read_slices(nifti(volume, AXIAL)))
    assert [warning.code for warning in found[1].warnings] == ["magnitude"]
    share = axial(1) - axial(1).min()
    np.testing.assert_allclose(found[1].image / found[1].image.max(), share / share.max(), atol=0.02)


def test_voxels_that_are_not_square_become_square():
    shapes = [
        ([1, 2, 5], (12, 5)),  # axial: y is up
        ([2, 1, 5], (6, 10)),
        ([6, 1, 2], (8, 6)),  # sagittal: z is up
        ([1, 6, 3], (12, 5)),  # coronal
    ]
    for spacing, shape in shapes:
        found = images(nifti(VOLUME, np.diag([*spacing, 1.0])))
        assert found[0].shape == shape
    turned = nifti(
        np.ascontiguousarray(VOLUME.transpose(1, 0, 2)),
        np.array([[0, 1, 0, 0], [2, 0, 0, 0], [0, 0, 5, 0], [0, 0, 0, 1.0]]),
    )
    np.testing.assert_array_equal(images(turned)[0], images(nifti(VOLUME, np.diag([1, 2, 5, 1.0])))[0])
    flat = nibabel.Nifti1Image(VOLUME[:, :, 0], np.diag([1, 2, 1, 1.0]))
    assert images(flat.to_bytes())[0].shape == (12, 5)


def test_a_gzip_file_may_have_several_members():
    content = nifti(VOLUME, AXIAL)
    for cuts in ([100], [348, 400], range(10, len(content), 50)):
        parts = [part.tobytes() for part in np.split(np.frombuffer(content, np.uint8), cuts)]
        packed = b"".join(map(gzip.compress, parts))
        for after in (b"", bytes(512), b"what gzip ignores"):
            np.testing.assert_array_equal(images(packed + after)[3], axial(3))
    with pytest.raises(UnreadableError, match="truncated"):
        images(packed[:-9])
    with pytest.raises(UnreadableError, match="more than the limit of 500 bytes"):
        list(file_reader.read_slices(packed, limits=Limits(unpacked_bytes=500)))


def test_limits():
    for limits, said in ((Limits(pixels=29), "5x6 pixels"), (Limits(slices=3), "4 slices")):
        with pytest.raises(UnreadableError, match=said):
            list(file_reader.read_slices(nifti(VOLUME, AXIAL), limits=limits))
    packed = nifti(VOLUME, AXIAL, packed=True)
    assert file_reader.is_compressed(packed)
    with pytest.raises(UnreadableError, match="more than the limit of 500 bytes"):
        list(file_reader.read_slices(packed, limits=Limits(unpacked_bytes=500)))


def test_without_nibabel_one_line_names_the_extra(tmp_path):
    (tmp_path / "volume.nii").write_bytes(nifti(VOLUME))
    program = (
        "import sys; sys.modules['nibabel'] = None; from bt_jax.data.io import file_reader as reading\n"
        f"list(reading.read_slices(open({str(tmp_path / 'volume.nii')!r}, 'rb').read()))"
    )
    ended = runs.run([sys.executable, "-c", program])
    assert "NIfTI volumes need further packages: python -m pip install nibabel pydicom" in ended.stderr
