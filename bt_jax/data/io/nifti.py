"""NIfTI volumes to grey slices. The only module that knows nibabel."""

import functools
import logging
import math
import warnings
from collections.abc import Iterator
from types import ModuleType

import numpy as np

from bt_jax.common.messages import Message
from bt_jax.data.io.slices import Limits, Slice, UnreadableError, check_size, convert_to_grey

# Spacing of one axis over that of the others, from which it counts as the one across the slices.
_THICK = 1.2
_AXIAL = 2  # the axis from the feet to the head
_FIRST_VOLUME = Message("first_volume", "The file holds several volumes, of which the first was read.")
_NO_ORIENTATION = Message("no_orientation", "The file does not say how the head lies in it, so slices may be turned.")


@functools.cache
def _import_nibabel() -> ModuleType:
    """nibabel, made silent: its messages may quote the header."""
    try:
        import nibabel
        import nibabel.imageglobals
    except ImportError:
        raise UnreadableError(
            Message(
                "nifti_extra",
                "NIfTI volumes need the extra `medical`: {command}",
                command=".venv/bin/pip install -e '.[medical]'",
            )
        ) from None
    logging.getLogger("nibabel").setLevel(logging.CRITICAL + 1)
    nibabel.imageglobals.logger.setLevel(logging.CRITICAL + 1)
    warnings.filterwarnings("ignore", module=r"nibabel(\..*)?|bt_jax\.data\.io\.nifti")
    return nibabel


def is_nifti(start: bytes) -> bool:
    """Whether the first bytes of a file, 348 or more, are those of NIfTI 1 or 2."""
    first = start[:4]
    if first in (b"\x5c\x01\x00\x00", b"\x00\x00\x01\x5c"):  # 348
        return start[344:348] in (b"n+1\x00", b"ni1\x00")
    return first in (b"\x1c\x02\x00\x00", b"\x00\x00\x02\x1c") and start[4:7] in (b"n+2", b"ni2")  # 540


def read(content: bytes, *, limits: Limits) -> Iterator[Slice]:
    """The slices of a volume, upright and as radiologists look at them: the patient's right is on the left.

    Slices lie across the axis with the widest spacing, in which they were acquired; where no axis stands out they are
    axial. They are counted from 1 in the order of the file.

    Args:
      content: of a file that is not compressed any more.
      limits: of pixels and slices.

    Raises:
      UnreadableError: damaged, above the limits, or of a kind that is not read.
    """
    library = _import_nibabel()
    # nibabel lets many kinds of exceptions through on damaged input.
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
        raise UnreadableError(
            Message("nifti_pair", "NIfTI in two files (.hdr and .img) is not read: store it as one .nii file")
        )
    kind = library.Nifti2Image if content[:4] in (b"\x1c\x02\x00\x00", b"\x00\x00\x02\x1c") else library.Nifti1Image
    volume = kind.from_bytes(content)
    shape = tuple(int(length) for length in volume.shape)
    _check(volume, shape, content, limits=limits)
    about = [_FIRST_VOLUME] if math.prod(shape[3:]) > 1 else []
    if len(shape) == 2:
        yield Slice(_orient(np.asarray(volume.dataobj), (1, 1), swapped=False), None, tuple(about))
        return
    axis, order, directions, known = _find_orientation(library, volume)
    check_size(**_measure_frame(shape, axis), slices=shape[axis], limits=limits)
    if not known:
        about.append(_NO_ORIENTATION)
    for index in range(shape[axis]):
        where = [slice(None)] * 3 + [0] * (len(shape) - 3)
        where[axis] = index  # type: ignore[call-overload]
        values = np.asarray(volume.dataobj[tuple(where)])
        number = index + 1 if shape[axis] > 1 else None
        yield Slice(_orient(values, directions, swapped=order), number, tuple(about))


def _check(volume: object, shape: tuple[int, ...], content: bytes, *, limits: Limits) -> None:
    """Raises `UnreadableError` for values that are no grey values, and for a header that claims too much."""
    dtype = np.dtype(volume.get_data_dtype())  # type: ignore[attr-defined]
    if dtype.kind not in "iuf" or dtype.itemsize > 8:
        raise UnreadableError(
            Message("nifti_kind", "NIfTI volumes of colours, complex or very long numbers are not read")
        )
    if not 2 <= len(shape) <= 7 or min(shape) <= 0:
        raise UnreadableError(Message("nifti_empty", "the NIfTI file has no slices"))
    needed = math.prod(shape) * dtype.itemsize
    there = max(0, len(content) - int(volume.dataobj.offset))  # type: ignore[attr-defined]
    if there < needed:
        raise UnreadableError(
            Message(
                "nifti_cut_off",
                "the NIfTI file is cut off: {there} of {needed} bytes of values are there",
                there=there,
                needed=needed,
            )
        )
    if len(shape) == 2:
        check_size(width=shape[0], height=shape[1], slices=1, limits=limits)


def _measure_frame(shape: tuple[int, ...], axis: int) -> dict[str, int]:
    width, height = (length for number, length in enumerate(shape[:3]) if number != axis)
    return {"width": width, "height": height}


def _find_orientation(library: ModuleType, volume: object) -> tuple[int, bool, tuple[int, int], bool]:
    """How slices lie in the array.

    Returns:
      The axis across the slices; whether the other two stand in the wrong order; for both, in the right order, 1 where
      they run to the right, front or head, else -1; whether the file tells all that.
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


def _has_orientation(volume: object) -> bool:
    """Whether the header has one of its two forms of orientation."""
    header = volume.header  # type: ignore[attr-defined]
    return int(header["sform_code"]) > 0 or int(header["qform_code"]) > 0


def _orient(values: np.ndarray, directions: tuple[int, int], *, swapped: bool) -> np.ndarray:
    """A slice [a, b] of the array, turned to what is seen: [H, W] uint8 or uint16."""
    if swapped:
        values = values.T
    values = values[:: directions[0], :: directions[1]]  # to the right or front; to the front or head
    return np.ascontiguousarray(convert_to_grey(np.flip(values).T))
