"""Preprocessing of a decoded image to the square network input; the same in training, evaluation and serving."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from PIL import Image

from bt_jax.common.errors import UsageError
from bt_jax.data.letterbox import Letterbox

FORMS = ("head", "stretch")

_Box = tuple[float, float, float, float]  # left, top, right, bottom in pixels

# The head is searched on thumbnails, in which small text and thin frames vanish and the skull does not: first coarsely
# in the whole frame, then finely inside the box found. Longer side in pixels, and the margin of the coarse box.
_COARSE, _COARSE_MARGIN, _FINE = 48, 0.08, 96


@dataclasses.dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """Converts an image to the square network input. Stored with the weights as plain values (`to_dict`, `from_dict`).

    `head` crops to the head, normalises the intensities inside it and pads to a square. This removes size, border,
    aspect ratio and brightness, which reveal the source of an image and often its class. `stretch` resizes the whole
    frame, ignores the aspect ratio, and keeps 8-bit intensities, as published models expect.

    Attributes:
      form: `head` or `stretch`.
      size: side of the result in pixels.
      lower_percentile: percentile of the intensities inside the head that becomes 0 (`head` only).
      upper_percentile: percentile that becomes 255 (`head` only).
      margin: added around the head on each side, as a fraction of the head's longer side (`head` only).
    """

    form: str = "head"
    size: int = 240
    lower_percentile: float = 1.0
    upper_percentile: float = 99.0
    margin: float = 0.02

    def __post_init__(self) -> None:
        if self.form not in FORMS:
            raise UsageError(f"preprocessing.form is {self.form!r}: use one of {', '.join(FORMS)}")
        if type(self.size) is not int or not 1 <= self.size <= 4096:
            raise UsageError(f"preprocessing.size is {self.size!r}: use a whole number of pixels from 1 to 4096")
        for name in ("lower_percentile", "upper_percentile", "margin"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
                raise UsageError(f"preprocessing.{name} is {value!r}: use a number")
        if not 0 <= self.lower_percentile < self.upper_percentile <= 100:
            raise UsageError(
                f"preprocessing.lower_percentile is {self.lower_percentile} and upper_percentile "
                f"{self.upper_percentile}: use 0 <= lower < upper <= 100"
            )
        if not 0 <= self.margin <= 1:
            raise UsageError(f"preprocessing.margin is {self.margin}: use a fraction from 0 to 1")

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """Converts `[H, W]` uint8 or uint16 to `[size, size]` uint8."""
        return self.letterbox(image)[0]

    def letterbox(self, image: np.ndarray) -> tuple[np.ndarray, Letterbox]:
        """Converts `[H, W]` uint8 or uint16 to `[size, size]` uint8; also returns the position of the image in it."""
        if image.ndim != 2 or image.size == 0 or image.dtype not in (np.uint8, np.uint16):
            raise ValueError(f"expected [H, W] uint8 or uint16 with pixels, got {image.shape} {image.dtype}")
        if self.form == "stretch":
            height, width = image.shape
            whole = Letterbox((width, height), (0, 0, width, height), (0, 0), (self.size, self.size), self.size)
            return self._stretch(image), whole
        return self._crop_head(image)

    def to_dict(self) -> dict[str, Any]:
        """Returns plain values for JSON."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Preprocessing":
        """Inverts `to_dict`. Missing fields get their defaults; unknown ones raise `UsageError`."""
        known = [field.name for field in dataclasses.fields(cls)]
        for name in values:
            if name not in known:
                raise UsageError(f"preprocessing.{name} is not a field: use {', '.join(known)}")
        return cls(**values)

    def _stretch(self, image: np.ndarray) -> np.ndarray:
        if image.dtype == np.uint16:
            image = (image.astype(np.float32) * (255 / max(int(image.max()), 1))).round().astype(np.uint8)
        resized = Image.fromarray(image).resize((self.size, self.size), Image.Resampling.BILINEAR, reducing_gap=3.0)
        return np.array(resized)

    def _crop_head(self, image: np.ndarray) -> tuple[np.ndarray, Letterbox]:
        frame = Image.fromarray(image if image.dtype == np.uint8 else image.astype(np.float32))
        box, intensities = find_head(frame, margin=self.margin)
        low, high = _compute_quantiles(intensities, self.lower_percentile / 100, self.upper_percentile / 100)
        left, top, right, bottom = box
        scale = self.size / max(right - left, bottom - top)
        seen = _clip(box, frame)
        width = min(self.size, max(1, round((seen[2] - seen[0]) * scale)))
        height = min(self.size, max(1, round((seen[3] - seen[1]) * scale)))
        resized = frame.resize((width, height), Image.Resampling.BILINEAR, box=seen, reducing_gap=3.0)
        normalised = (np.asarray(resized, np.float32) - np.float32(low)) * np.float32(255 / max(high - low, 1.0))
        # The box is centred; its part outside the frame stays black.
        x = min(self.size - width, round(self.size / 2 + (seen[0] - (left + right) / 2) * scale))
        y = min(self.size - height, round(self.size / 2 + (seen[1] - (top + bottom) / 2) * scale))
        result = np.zeros((self.size, self.size), np.uint8)
        result[y : y + height, x : x + width] = np.clip(normalised + np.float32(0.5), 0, 255)
        return result, Letterbox(frame.size, seen, (x, y), (width, height), self.size)


def scale_size(size: int, scale: float) -> int:
    """Scales the side of images, in pixels, to a multiple of 16, which the stages of most networks divide evenly.

    A scale of 1 leaves every side as it is.
    """
    return size if scale == 1 else 16 * round(size * scale / 16)


def find_head(frame: Image.Image, *, margin: float) -> tuple[_Box, np.ndarray]:
    """Finds the head's bounding box with a margin, and a sample of the intensities inside the head's outline.

    A second pass inside the first box measures a small head in a wide border as finely as any other. If nothing stands
    out, the box is the whole frame.

    Args:
      frame: image in mode L or F.
      margin: added on each side, as a fraction of the box's longer side.

    Returns:
      The box in pixels of `frame`, and intensities `[n]`, n >= 1. The margin may lie outside the frame, so that a
      tightly cropped image gives the same box as one with a border.
    """
    box: _Box = (0, 0, frame.width, frame.height)
    for longer_side, extra in ((_COARSE, _COARSE_MARGIN), (_FINE, margin)):
        box = _clip(box, frame)
        thumbnail = _shrink(frame, box, longer_side)
        outline = _find_outline(thumbnail)
        rows, columns = np.flatnonzero(outline.any(1)), np.flatnonzero(outline.any(0))
        horizontal = (box[2] - box[0]) / thumbnail.shape[1]
        vertical = (box[3] - box[1]) / thumbnail.shape[0]
        left, right = box[0] + float(columns[0]) * horizontal, box[0] + float(columns[-1] + 1) * horizontal
        top, bottom = box[1] + float(rows[0]) * vertical, box[1] + float(rows[-1] + 1) * vertical
        extra *= max(right - left, bottom - top)
        box = (left - extra, top - extra, right + extra, bottom + extra)
    return box, thumbnail[outline]


def _clip(box: _Box, frame: Image.Image) -> _Box:
    """Clips a box to the frame."""
    left, top, right, bottom = box
    return max(0.0, left), max(0.0, top), min(float(frame.width), right), min(float(frame.height), bottom)


def _shrink(frame: Image.Image, box: _Box, longer_side: int) -> np.ndarray:
    """Reduces the boxed part to the longer side by averaging, never enlarges it: `[h, w]` float32."""
    width, height = box[2] - box[0], box[3] - box[1]
    scale = min(1.0, longer_side / max(width, height))
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return np.asarray(frame.resize(size, Image.Resampling.BOX, box=box, reducing_gap=2.0), np.float32)


def _find_outline(thumbnail: np.ndarray) -> np.ndarray:
    """Finds the pixels inside the head's outline, holes filled; all of them if nothing stands out: `[h, w]` bool."""
    top, bottom, left, right = _find_inside_of_bright_frame(thumbnail)
    inner = thumbnail[top:bottom, left:right]
    # Nearly all images have a dark background; its median is about the 0.125 quantile. In an image cropped inside the
    # head, the threshold falls between shades of tissue, and the bounding box is the whole image.
    dark, bright = _compute_quantiles(inner, 0.125, 0.98)
    mask = _keep_large_components(_filter_by_majority(inner > dark + 0.12 * (bright - dark)))
    outline = np.zeros(thumbnail.shape, bool)
    if mask.any():
        outline[top:bottom, left:right] = _fill(mask, axis=0) & _fill(mask, axis=1)
    else:
        outline[:] = True
    return outline


def _find_inside_of_bright_frame(thumbnail: np.ndarray) -> tuple[int, int, int, int]:
    """Finds first and end row, first and end column inside a bright uniform frame (screenshots, scanned film)."""
    low, high = float(thumbnail.min()), float(thumbnail.max())

    def peel(lines: np.ndarray) -> tuple[int, int]:
        length = lines.shape[1]
        lines = lines[
            :, length // 7 : length - length // 7
        ]  # leaves out the other sides of the frame, and rounded corners
        lowest, highest = lines.min(1), lines.max(1)
        kept = np.flatnonzero((lowest < (low + high) / 2) | (highest - lowest > 0.1 * (high - low)))
        return (int(kept[0]), int(kept[-1]) + 1) if len(kept) else (0, len(lines))

    top, bottom = peel(thumbnail)
    left, right = peel(thumbnail.T)
    return top, bottom, left, right


def _compute_quantiles(values: np.ndarray, lower: float, upper: float) -> tuple[float, float]:
    """Computes two quantiles, the nearest lower values; several times faster than `np.percentile` on small arrays."""
    positions = int(lower * (values.size - 1)), int(upper * (values.size - 1))
    ordered = np.partition(values, positions, axis=None)
    return float(ordered[positions[0]]), float(ordered[positions[1]])


def _filter_by_majority(mask: np.ndarray) -> np.ndarray:
    """Applies a 3x3 majority filter: removes specks and lines of 1 pixel, and keeps a scalp of 2 pixels."""
    padded = np.pad(mask, 1).astype(np.int8)
    rows = padded[:-2] + padded[1:-1] + padded[2:]
    return rows[:, :-2] + rows[:, 1:-1] + rows[:, 2:] >= 5


def _fill(mask: np.ndarray, *, axis: int) -> np.ndarray:
    """Fills each line from its first to its last true pixel."""
    forward = np.logical_or.accumulate(mask, axis)
    backward = np.flip(np.logical_or.accumulate(np.flip(mask, axis), axis), axis)
    return forward & backward


def _keep_large_components(mask: np.ndarray) -> np.ndarray:
    """Removes the 4-connected components with less than a 15th of the largest one's pixels."""
    height, width = mask.shape
    edges = np.diff(np.pad(mask, ((0, 0), (1, 1))).astype(np.int8).ravel())
    stride = width + 2
    starts, ends = np.flatnonzero(edges == 1), np.flatnonzero(edges == -1)  # in the padded, flattened mask
    if not len(starts):
        return mask
    # Union-find over some hundred runs: each run of a row is joined with the runs above that it touches.
    parent = list(range(len(starts)))

    def find_root(run: int) -> int:
        while parent[run] != run:
            parent[run] = parent[parent[run]]
            run = parent[run]
        return run

    first, last = starts.tolist(), ends.tolist()
    above = 0
    for run in range(len(first)):
        while last[above] + stride <= first[run]:
            above += 1
        touching = above
        while touching < run and first[touching] + stride < last[run]:
            parent[find_root(touching)] = find_root(run)
            touching += 1
    roots = np.array([find_root(run) for run in range(len(first))])
    areas = np.bincount(roots, weights=ends - starts, minlength=len(first))
    large = areas[roots] * 15 >= areas.max()
    step = np.zeros(height * stride + 1, np.int8)
    step[starts[large] + 1] = 1
    step[ends[large] + 1] -= 1
    return np.cumsum(step[:-1], dtype=np.int8).reshape(height, stride)[:, 1:-1] > 0
