"""Rendering of heat maps as colours over a grey image, and scores of how well a heat map localises a known region."""

import io
from typing import Any, TypeVar

import numpy as np
from PIL import Image

_Array = TypeVar("_Array", bound=Any)  # of NumPy or JAX

# Matplotlib's `plasma` (CC0) at equal steps. Its lightness increases monotonically, so that it is readable with any
# colour vision and in print. Unlike `viridis` and `cividis`, it contains no grey.
_ANCHORS = np.array(
    [
        (13, 8, 135),
        (76, 2, 161),
        (126, 3, 168),
        (170, 35, 149),
        (204, 71, 120),
        (230, 108, 92),
        (248, 149, 64),
        (253, 197, 39),
        (240, 249, 33),
    ],
    np.float32,
)
METHODS = ("gradcam", "layercam", "integrated_gradients")  # see `attribution`
STRENGTH = 0.65  # opacity of the colour where the heat is 1
_ROWS = 256  # coloured at a time: an image at the pixel limit would take gigabytes at once


def colour(heat: np.ndarray) -> np.ndarray:
    """Maps heat to colours: [H, W] floats in [0, 1] -> [H, W, 3] uint8."""
    position = np.clip(np.nan_to_num(heat), 0, 1) * (len(_ANCHORS) - 1)
    steps = np.arange(len(_ANCHORS))
    return np.stack([np.interp(position, steps, channel).round() for channel in _ANCHORS.T], axis=-1).astype(np.uint8)


def overlay(image: np.ndarray, heat: np.ndarray, *, strength: float = STRENGTH) -> np.ndarray:
    """Blends the colours of a heat map over a grey image; the image is unchanged where the heat is 0.

    Args:
      image: [H, W] uint8, or uint16, whose range is scaled to 8 bits.
      heat: [H, W] floats in [0, 1].
      strength: opacity of the colour where the heat is 1, from 0 to 1.

    Returns:
      [H, W, 3] uint8.
    """
    if image.shape != heat.shape or image.ndim != 2:
        raise ValueError(f"image and heat must both be [H, W], got {image.shape} and {heat.shape}")
    low, factor = _find_range(image)
    result = np.empty((*image.shape, 3), np.uint8)
    for start in range(0, len(image), _ROWS):
        rows = slice(start, start + _ROWS)
        grey = (image[rows].astype(np.float32) - low) * factor
        share = strength * np.clip(np.nan_to_num(heat[rows]), 0, 1)[..., None]  # [h, W, 1]
        result[rows] = ((1 - share) * grey[..., None] + share * colour(heat[rows])).round()
    return result


def scale_to_one(heat: _Array) -> _Array:
    """Divides [..., H, W] by each map's largest value; a map that is 0 everywhere stays so."""
    largest = heat.max(axis=(-2, -1), keepdims=True)
    return heat / (largest + (largest <= 0))


def make_upsampling(*, first: float, step: float, side: int, size: int) -> np.ndarray:
    """Makes the matrix [size, side] float32 of linear interpolation between places, constant beyond them.

    Args:
      first: the first place, on the pixels' scale, where the first pixel is at 0.5.
      step: distance between neighbouring places.
      side: number of places.
      size: number of pixels.
    """
    places = (np.arange(size) + 0.5 - first) / step
    distance = abs(np.clip(places, 0, side - 1)[:, None] - np.arange(side))
    return np.maximum(1 - distance, 0).astype(np.float32)


def make_layer(heat: np.ndarray) -> np.ndarray:
    """Makes a transparent layer to lay over an image: [H, W] in [0, 1] -> [H, W, 4] uint8 with the heat as opacity."""
    opacity = np.rint(np.clip(np.nan_to_num(heat), 0, 1) * 255).astype(np.uint8)
    return np.concatenate([colour(heat), opacity[..., None]], axis=-1)


def scale_to_screen(image: np.ndarray) -> np.ndarray:
    """Converts [H, W] uint8 or uint16 to [H, W] uint8; the range of uint16 is scaled to 8 bits."""
    low, factor = _find_range(image)
    return image if image.dtype == np.uint8 else ((image.astype(np.float32) - low) * factor).round().astype(np.uint8)


def _find_range(image: np.ndarray) -> tuple[float, float]:
    """Finds the value shown as black, and the factor that maps the brightest value to 255."""
    if image.dtype == np.uint8:
        return 0.0, 1.0
    low, high = float(image.min()), float(image.max())
    return low, 255 / max(high - low, 1.0)


def encode_png(picture: np.ndarray) -> bytes:
    """Encodes a picture as PNG: [H, W] grey, [H, W, 3] RGB or [H, W, 4] RGBA, uint8."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, format="PNG", optimize=False)
    return buffer.getvalue()


def is_hit(heat: np.ndarray, place: np.ndarray, *, tolerance: float = 0.0) -> bool:
    """Plays the pointing game: is the maximum in the region (Zhang et al. 2016, https://arxiv.org/abs/1608.00507)?

    Args:
      heat: [H, W] floats. Several maxima count by their centre; without any heat there is no hit.
      place: [H, W] bool, the region, not empty.
      tolerance: distance from the region in pixels that still counts.
    """
    if not heat.max() > 0:
        return False
    hottest = np.argwhere(heat == heat.max()).mean(axis=0)
    return bool(np.hypot(*(np.argwhere(place) - hottest).T).min() <= max(tolerance, 0.75))


def compute_share_inside(heat: np.ndarray, place: np.ndarray) -> float:
    """Computes the fraction of the heat in the region (Wang et al. 2020, https://arxiv.org/abs/1910.01279)."""
    return float(heat[place].sum() / heat.sum()) if heat.sum() > 0 else 0.0
