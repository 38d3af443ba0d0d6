"""DICOM and NIfTI files in memory, as scanners and other programs write them."""

import gzip
import io
from typing import Any

import nibabel
import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

# In every tag about a patient; must never be seen outside of the file.
SECRET = "Zaphod"

MR_STORAGE = "1.2.840.10008.5.1.4.1.1.4"


def dataset(
    pixels: np.ndarray, *, frames: int | None = None, syntax: str = ExplicitVRLittleEndian, **tags: Any
) -> Dataset:
    """A DICOM data set.

    Args:
      pixels: [H, W], [frames, H, W], or [H, W, 3] of an integer dtype of 8, 16 or 32 bits.
      frames: where the first dimension counts them.
      syntax: how the file is encoded.
      **tags: set after all others; None removes one.
    """
    made = Dataset()
    made.file_meta = FileMetaDataset()
    made.file_meta.TransferSyntaxUID = syntax
    made.file_meta.MediaStorageSOPClassUID = MR_STORAGE
    made.file_meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=["file"])
    made.SOPClassUID, made.SOPInstanceUID = MR_STORAGE, made.file_meta.MediaStorageSOPInstanceUID
    made.PatientName, made.PatientID = f"{SECRET}^Beeblebrox", f"{SECRET}-42"
    made.PatientBirthDate, made.PatientAddress, made.InstitutionName = (
        "19780308",
        f"{SECRET} street",
        f"{SECRET} clinic",
    )
    made.StudyDescription = made.SeriesDescription = made.ImageComments = f"scan of {SECRET}"
    made.Modality, made.BodyPartExamined = "MR", "BRAIN"
    colour = pixels.shape[-1] == 3 and pixels.ndim == (3 if frames is None else 4)
    rows, columns = pixels.shape[1:3] if frames is not None else pixels.shape[:2]
    made.Rows, made.Columns, made.SamplesPerPixel = rows, columns, 3 if colour else 1
    made.PhotometricInterpretation = "RGB" if colour else "MONOCHROME2"
    if colour:
        made.PlanarConfiguration = 0
    if frames is not None:
        made.NumberOfFrames = frames
    made.BitsAllocated = made.BitsStored = pixels.dtype.itemsize * 8
    made.HighBit, made.PixelRepresentation = made.BitsStored - 1, int(pixels.dtype.kind == "i")
    content = pixels.tobytes()
    made.PixelData = content + b"\0" * (len(content) % 2)
    made["PixelData"].VR = "OB" if pixels.dtype.itemsize == 1 else "OW"
    for name, value in tags.items():
        if value is None:
            delattr(made, name)
        else:
            setattr(made, name, value)
    return made


def encoded(made: Dataset, **options: Any) -> bytes:
    """The file of a data set."""
    buffer = io.BytesIO()
    pydicom.dcmwrite(buffer, made, **({"enforce_file_format": True} | options))
    return buffer.getvalue()


def dicom(pixels: np.ndarray, **arguments: Any) -> bytes:
    """A DICOM file; arguments as of `dataset`."""
    return encoded(dataset(pixels, **arguments))


def table(values: np.ndarray, *, first: int, bits: int) -> Dataset:
    """An item of a sequence of look-up tables."""
    item = Dataset()
    item.add_new("LUTDescriptor", "US", [len(values) % 65536, first, bits])
    item.add_new("LUTData", "OW", values.astype("<u2").tobytes())
    return item


def nifti(volume: np.ndarray, affine: np.ndarray | None = None, *, packed: bool = False, version: int = 1) -> bytes:
    """A NIfTI file."""
    kind = nibabel.Nifti1Image if version == 1 else nibabel.Nifti2Image
    image = kind(volume, np.eye(4) if affine is None else affine, dtype=volume.dtype)
    image.header["descrip"] = f"head of {SECRET}"
    content = image.to_bytes()
    return gzip.compress(content, mtime=0) if packed else content
