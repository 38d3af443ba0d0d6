"""Reading of NIfTI volumes as grey slices. The only module that imports nibabel."""

import functools
import logging
import math
import warnings
from collections.abc import Iterator
from types import ModuleType

import numpy as np

from bt_jax.common.messages import Message
from bt_jax.data.io.slices import (
    Limits,
    Slice,
    UnreadableError,
    check_size,
    convert_colour_to_grey,
    convert_to_grey,
    make_square,
)

# Spacing of an axis relative to the other axes, from which it counts as the slice axis.
_THICK = 1.2
_AXIAL = 2  # the axis from feet to head
# NIfTI's codes of what the values are. Surfaces, matrices and connectivity (CIFTI) are no volumes of grey values.
_NOT_VOLUMES = {
    **dict.fromkeys((1004, 1005), Message("nifti_matrices", "matrices")),
    **dict.fromkeys((1006, 1007, *range(2006, 2020)), Message("nifti_vectors", "vectors or deformations")),
    **dict.fromkeys((1008, 1009, 1010, 2002, 2005), Message("nifti_surface", "a surface (GIFTI)")),
    **dict.fromkeys((2001, 2003, 2004), Message("nifti_surface_values", "values on a surface (GIFTI)")),
    **dict.fromkeys(range(3000, 3100), Message("nifti_cifti", "connectivity or values on a surface (CIFTI)")),
}
_CIFTI_EXTENSION = 32
_DERIVED = {
    **dict.fromkeys(range(2, 25), Message("statistic", "a statistical map")),
    **dict.fromkeys((1001,), Message("statistic", "a statistical map")),
    **dict.fromkeys((1002, 1003), Message("segmentation", "a segmentation")),
}
PAIR = Message("nifti_pair", "NIfTI in two files (.hdr and .img) is not supported: store it as one .nii file")
_FIRST_VOLUME = Message("first_volume", "The file has several volumes, of which only the first was read.")
_COLOURS = Message(
    "nifti_colours", "The volume has colours, as screenshots and computed maps have: the model is trained on MRI only."
)
_MAGNITUDE = Message("magnitude", "The volume has complex numbers, of which the magnitude was read.")
_NO_ORIENTATION = Message(
    "no_orientation", "The file does not define an orientation, so slices may be rotated or mirrored."
)


@functools.cache
def _import_nibabel() -> ModuleType:
    """Imports nibabel and silences it, since its messages may quote the header."""
    try:
        import nibabel
        import nibabel.imageglobals
    except ImportError:
        raise UnreadableError(
            Message(
                "nifti_extra",
                "NIfTI volumes need further packages: {command}",
                command="python -m pip install nibabel pydicom",
            )
        ) from None
    logging.getLogger("nibabel").setLevel(logging.CRITICAL + 1)
    nibabel.imageglobals.logger.setLevel(logging.CRITICAL + 1)
    warnings.filterwarnings("ignore", module=r"nibabel(\..*)?|bt_jax\.data\.io\.nifti")
    return nibabel


def is_nifti(start: bytes) -> bool:
    """Returns whether the first bytes of a file, 348 or more, are those of NIfTI 1 or 2."""
    first = start[:4]
    if first in (b"\x5c\x01\x00\x00", b"\x00\x00\x01\x5c"):  # 348
        return start[344:348] in (b"n+1\x00", b"ni1\x00")
    return first in (b"\x1c\x02\x00\x00", b"\x00\x00\x02\x1c") and start[4:7] in (b"n+2", b"ni2")  # 540


def read(content: bytes, *, limits: Limits) -> Iterator[Slice]:
    """Reads the slices of a volume, upright and in radiological convention: the patient's right is on the left.

    The slice axis is the one with the widest spacing, in which slices were acquired. If none is wider than the others,
    slices are axial. They are numbered from 1 in the order of the file.

    Args:
      content: bytes of the uncompressed file.
      limits: limits on pixels and slices.

    Raises:
      UnreadableError: the file is damaged, exceeds the limits, or is of an unsupported kind.
    """
    library = _import_nibabel()
    # On damaged input, nibabel may raise many kinds of exceptions.
    try:
        yield from _iterate_slices(library, content, limits=limits)
    except UnreadableError:
        raise
    except Exception as error:
        raise UnreadableError(
            Message("nifti_damaged", "the NIfTI file is damaged or unusual ({kind})", kind=type(error).__name__)
        ) from None


def _iterate_slices(library: ModuleType, content: bytes, *, limits: Limits) -> Iterator[Slice]:
    if content[344:347] == b"ni1" or content[4:7] == b"ni2":
        raise UnreadableError(PAIR)
    kind = library.Nifti2Image if content[:4] in (b"\x1c\x02\x00\x00", b"\x00\x00\x02\x1c") else library.Nifti1Image
    volume = kind.from_bytes(content)
    shape = tuple(int(length) for length in volume.shape)
    _check(volume, shape, content, limits=limits)
    remarks = [_FIRST_VOLUME] if math.prod(shape[3:]) > 1 else []
    derived = _DERIVED.get(int(volume.header["intent_code"]))
    if derived:
        text = "The file is marked as {modality}, not MRI: the model is trained on MRI only."
        remarks.append(Message("other_modality", text, modality=derived))
    if _has_colours(np.dtype(volume.get_data_dtype())):
        remarks.append(_COLOURS)
    if np.dtype(volume.get_data_dtype()).kind == "c":
        remarks.append(_MAGNITUDE)
    if len(shape) == 2:
        image = _orient(np.asarray(volume.dataobj), (1, 1), swapped=False)
        image, stretched = make_square(image, aspect=_measure_aspect(volume, (0, 1)), limits=limits)
        yield Slice(image, None, (*remarks, *stretched))
        return
    axis, order, directions, known = _find_orientation(library, volume)
    check_size(**_measure_frame(shape, axis), slices=shape[axis], limits=limits)
    if not known:
        remarks.append(_NO_ORIENTATION)
    across, up = (number for number in range(3) if number != axis)
    aspect = _measure_aspect(volume, (up, across) if order else (across, up))
    for index in range(shape[axis]):
        where = [slice(None)] * 3 + [0] * (len(shape) - 3)
        where[axis] = index  # type: ignore[call-overload]
        values = np.asarray(volume.dataobj[tuple(where)])
        number = index + 1 if shape[axis] > 1 else None
        image, stretched = make_square(_orient(values, directions, swapped=order), aspect=aspect, limits=limits)
        yield Slice(image, number, (*remarks, *stretched))


def _check(volume: object, shape: tuple[int, ...], content: bytes, *, limits: Limits) -> None:
    """Raises `UnreadableError` for values that are not grey, and for a header that claims more than the file holds."""
    header = volume.header  # type: ignore[attr-defined]
    kind = _NOT_VOLUMES.get(int(header["intent_code"]))
    if any(extension.get_code() == _CIFTI_EXTENSION for extension in header.extensions):
        kind = _NOT_VOLUMES[3000]
    if kind:
        text = "the NIfTI file holds {kind}, not an image: convert it to a volume of grey values"
        raise UnreadableError(Message("nifti_not_volume", text, kind=kind))
    dtype = np.dtype(volume.get_data_dtype())  # type: ignore[attr-defined]
    if dtype.kind not in "iufc" and not _has_colours(dtype):
        raise UnreadableError(Message("nifti_kind", "NIfTI volumes of this type of values are not supported"))
    if not 2 <= len(shape) <= 7 or min(shape) <= 0:
        raise UnreadableError(Message("nifti_empty", "the NIfTI file has no slices"))
    needed = math.prod(shape) * dtype.itemsize
    there = max(0, len(content) - int(volume.dataobj.offset))  # type: ignore[attr-defined]
    if there < needed:
        raise UnreadableError(
            Message(
                "nifti_cut_off",
                "the NIfTI file is truncated: it has {there} of {needed} bytes of values",
                there=there,
                needed=needed,
            )
        )
    if len(shape) == 2:
        check_size(width=shape[0], height=shape[1], slices=1, limits=limits)


def _has_colours(dtype: np.dtype) -> bool:
    """Returns whether values are colours of 8 bits, with or without transparency."""
    return dtype.names is not None and dtype.names[:3] == ("R", "G", "B")


def _measure_frame(shape: tuple[int, ...], axis: int) -> dict[str, int]:
    width, height = (length for number, length in enumerate(shape[:3]) if number != axis)
    return {"width": width, "height": height}


def _find_orientation(library: ModuleType, volume: object) -> tuple[int, bool, tuple[int, int], bool]:
    """Finds the orientation of the slices in the array.

    Returns:
      The slice axis; whether the other two axes must be swapped; for both, in the right order, 1 if they run to the
      right, front or head, otherwise -1; whether the file defines all of this.
    """
    affine = np.asarray(volume.affine)  # type: ignore[attr-defined]
    axes = np.full((3, 2), np.nan)  # [3, 2]: axis of the body, direction
    if np.isfinite(affine).all():
        axes = library.io_orientation(affine)
    known = bool(np.isfinite(axes).all()) and _has_orientation(volume)
    if not np.isfinite(axes).all():
        axes = np.array([[0, 1], [1, 1], [2, 1]])
    body = [int(axis) for axis in axes[:, 0]]
    spacing = np.nan_to_num(np.abs(volume.header.get_zooms()[:3]))  # type: ignore[attr-defined]
    widest = int(np.argmax(spacing))
    thick = spacing[widest] >= _THICK * np.partition(spacing, 1)[1] > 0
    axis = widest if thick else body.index(_AXIAL)
    first, second = (number for number in range(3) if number != axis)
    swapped = body[first] > body[second]
    if swapped:
        first, second = second, first
    return axis, swapped, (int(axes[first, 1]), int(axes[second, 1])), known


def _measure_aspect(volume: object, axes: tuple[int, int]) -> float | None:
    """Returns the height of a pixel over its width, given the axes across and up; None if the file does not say it."""
    across, up = (float(volume.header.get_zooms()[axis]) for axis in axes)  # type: ignore[attr-defined]
    return up / across if 0 < across < math.inf and 0 < up < math.inf else None


def _has_orientation(volume: object) -> bool:
    """Returns whether the header has one of the two forms of orientation."""
    header = volume.header  # type: ignore[attr-defined]
    return int(header["sform_code"]) > 0 or int(header["qform_code"]) > 0


def _orient(values: np.ndarray, directions: tuple[int, int], *, swapped: bool) -> np.ndarray:
    """Turns a slice [a, b] of the array upright: [H, W] uint8 or uint16."""
    if swapped:
        values = values.T
    values = np.flip(values[:: directions[0], :: directions[1]]).T  # to the right or front; to the front or head
    if _has_colours(values.dtype):
        return convert_colour_to_grey(np.stack([values["R"], values["G"], values["B"]], -1))
    return np.ascontiguousarray(convert_to_grey(np.abs(values) if values.dtype.kind == "c" else values))
