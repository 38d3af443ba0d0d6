"""All files that pydicom and nibabel carry in their packages, compared with what those libraries read."""

import gzip
import io
import pathlib
import warnings

import nibabel
import numpy as np
import pydicom
import pytest

from bt_jax.data.io import dicom, dicom_compression, file_reader
from bt_jax.data.io.slices import Limits, UnreadableError, convert_to_grey, make_square

pytestmark = pytest.mark.filterwarnings("ignore")

DICOM_FOLDER = pathlib.Path(pydicom.__file__).parent / "data"
NIBABEL_FOLDER = pathlib.Path(nibabel.__file__).parent


def find(folder: pathlib.Path, *, suffixes: tuple[str, ...] = ()) -> list[str]:
    """Names of files relative to the folder; of all if no suffixes are given, except programs and their caches."""
    paths = (path for path in sorted(folder.rglob("*")) if path.is_file() and path.suffix not in (".py", ".pyc"))
    return [str(path.relative_to(folder)) for path in paths if not suffixes or path.name.endswith(suffixes)]


def unpack(path: pathlib.Path) -> bytes:
    content = path.read_bytes()
    return gzip.decompress(content) if content.startswith(b"\x1f\x8b") else content


DICOM_FILES = [DICOM_FOLDER / name for name in find(DICOM_FOLDER) if "dicomdirtests" not in name] + [
    NIBABEL_FOLDER / name for name in find(NIBABEL_FOLDER, suffixes=(".dcm", ".dcm.gz"))
]
NIFTI_FILES = [NIBABEL_FOLDER / name for name in find(NIBABEL_FOLDER, suffixes=(".nii", ".nii.gz"))]


def read_with_pydicom(content: bytes) -> tuple[pydicom.Dataset, np.ndarray] | None:
    """The data set and its stored values [frames, H, W] or [frames, H, W, 3], unless pydicom fails."""
    try:
        dataset = pydicom.dcmread(io.BytesIO(content), force=True)
        pixels = pydicom.pixels.pixel_array(dataset)
    except Exception:
        return None
    return dataset, pixels if int(dataset.get("NumberOfFrames") or 1) > 1 else pixels[None]


def test_there_are_many():
    assert len(DICOM_FILES) > 90 and len(NIFTI_FILES) >= 8
    assert sum(read_with_pydicom(unpack(path)) is not None for path in DICOM_FILES) > 60


@pytest.mark.parametrize("path", DICOM_FILES, ids=lambda path: path.name)
def test_what_pydicom_reads_is_read_with_the_same_values(path):
    expected = read_with_pydicom(unpack(path))
    try:
        found = list(file_reader.read_slices(path.read_bytes()))
    except UnreadableError as error:
        assert expected is None, error
        return
    if expected is None:  # this reader accepts more
        return
    dataset, frames = expected
    assert len(found) == len(frames)
    library = dicom._import_pydicom()
    parsed = dicom._parse(library, unpack(path), limits=Limits())
    ours = list(dicom_compression.iterate_frames(library, parsed, len(frames)))
    np.testing.assert_array_equal(np.stack(ours), frames)
    spacing = dataset.get("PixelSpacing")
    if not spacing or spacing[0] == spacing[1]:
        assert found[0].image.shape == frames.shape[1:3]


# The pixels of these files are damaged, or their headers lack what pixels need.
DAMAGED = {"MR_truncated.dcm", "badVR.dcm", "meta_missing_tsyntax.dcm", "nested_priv_SQ.dcm"}


@pytest.mark.parametrize("path", DICOM_FILES, ids=lambda path: path.name)
def test_no_intact_file_is_called_damaged(path):
    try:
        list(file_reader.read_slices(path.read_bytes()))
    except UnreadableError as error:
        if path.name not in DAMAGED:
            assert str(error).startswith(("its pixels", "the DICOM file holds no image", "not an image in a known"))
            assert "pip install pylibjpeg" in str(error) or "its pixels" not in str(error)


@pytest.mark.parametrize("path", NIFTI_FILES, ids=lambda path: path.name)
def test_what_nibabel_reads_is_read_with_the_same_values(path):
    volume = nibabel.load(path)
    if isinstance(volume, nibabel.Cifti2Image):
        with pytest.raises(UnreadableError, match=r"connectivity or values on a surface \(CIFTI\)"):
            list(file_reader.read_slices(path.read_bytes()))
        return
    found = [slice_.image for slice_ in file_reader.read_slices(path.read_bytes())]
    upright = nibabel.as_closest_canonical(volume)
    values = np.asanyarray(upright.dataobj).reshape(*upright.shape[:3], -1)[..., 0]
    spacing = upright.header.get_zooms()[:3]
    widest = int(np.argmax(spacing))
    axis = widest if spacing[widest] >= 1.2 * sorted(spacing)[1] else 2
    assert len(found) == values.shape[axis]
    across, up = (number for number in range(3) if number != axis)
    expected = []
    for slice_ in np.moveaxis(values, axis, 0):
        grey = np.ascontiguousarray(convert_to_grey(slice_[::-1, ::-1].T))
        expected.append(make_square(grey, aspect=spacing[up] / spacing[across], limits=Limits())[0])
    forwards = all((one == other).all() for one, other in zip(found, expected, strict=True))
    backwards = all((one == other).all() for one, other in zip(found, expected[::-1], strict=True))
    assert forwards or backwards


@pytest.mark.parametrize(
    "name", find(NIBABEL_FOLDER, suffixes=(".mgz", ".gii", ".PAR", ".HEAD", ".trk", ".tck", ".hdr"))
)
def test_other_files_of_neuroimaging_are_named(name):
    if name.endswith("no_magic_number.tck"):
        return
    with warnings.catch_warnings(), pytest.raises(UnreadableError) as caught:
        warnings.simplefilter("ignore")
        list(file_reader.read_slices((NIBABEL_FOLDER / name).read_bytes()))
    assert "known format" not in str(caught.value)
