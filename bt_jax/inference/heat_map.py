"""Heat maps as pictures, and how well they point: colours over a grey image, hits on a known place."""

import io

import numpy as np
from PIL import Image

# Matplotlib's `plasma` (CC0) at equal steps: its lightness rises all the way, so that it reads the same with every
# kind of colour vision and in print; and, other than that of `viridis` or `cividis`, none of its colours is a grey.
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
STRENGTH = 0.65  # of the colour where the heat is 1
_ROWS = 256  # that are coloured at a time: a picture at the limit of pixels would take gigabytes at once


def colour(heat: np.ndarray) -> np.ndarray:
    """[H, W] floats in [0, 1] -> [H, W, 3] uint8."""
    position = np.clip(np.nan_to_num(heat), 0, 1) * (len(_ANCHORS) - 1)
    steps = np.arange(len(_ANCHORS))
    return np.stack([np.interp(position, steps, channel).round() for channel in _ANCHORS.T], axis=-1).astype(np.uint8)


def overlay(image: np.ndarray, heat: np.ndarray, *, strength: float = STRENGTH) -> np.ndarray:
    """A grey image with the heat over it, more of the colour the hotter: where it is 0 the image is as it was.

    Args:
      image: [H, W] uint8, or uint16, whose range is then stretched to what a screen shows.
      heat: [H, W] floats in [0, 1].
      strength: of the colour where the heat is 1, from 0 to 1.

    Returns:
      [H, W, 3] uint8.
    """
    if image.shape != heat.shape or image.ndim != 2:
        raise ValueError(f"image {image.shape} and heat {heat.shape} must be [H, W] alike")
    low, factor = _find_range(image)
    result = np.empty((*image.shape, 3), np.uint8)
    for start in range(0, len(image), _ROWS):
        rows = slice(start, start + _ROWS)
        grey = (image[rows].astype(np.float32) - low) * factor
        share = strength * np.clip(np.nan_to_num(heat[rows]), 0, 1)[..., None]  # [h, W, 1]
        result[rows] = ((1 - share) * grey[..., None] + share * colour(heat[rows])).round()
    return result


def make_layer(heat: np.ndarray) -> np.ndarray:
    """The heat alone, to be laid over an image: [H, W] in [0, 1] -> [H, W, 4] uint8, whose opacity is the heat."""
    opacity = np.rint(np.clip(np.nan_to_num(heat), 0, 1) * 255).astype(np.uint8)
    return np.concatenate([colour(heat), opacity[..., None]], axis=-1)


def scale_to_screen(image: np.ndarray) -> np.ndarray:
    """[H, W] uint8, or uint16, whose range is stretched to what a screen shows -> [H, W] uint8."""
    low, factor = _find_range(image)
    return image if image.dtype == np.uint8 else ((image.astype(np.float32) - low) * factor).round().astype(np.uint8)


def _find_range(image: np.ndarray) -> tuple[float, float]:
    """What is black, and the factor from there to 255 as white."""
    if image.dtype == np.uint8:
        return 0.0, 1.0
    low, high = float(image.min()), float(image.max())
    return low, 255 / max(high - low, 1.0)


def encode_png(picture: np.ndarray) -> bytes:
    """The PNG file of a picture [H, W] of greys, [H, W, 3] of colours or [H, W, 4] with opacity, uint8."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, format="PNG", optimize=False)
    return buffer.getvalue()


def is_hit(heat: np.ndarray, place: np.ndarray, *, tolerance: float = 0.0) -> bool:
    """The pointing game (Zhang et al. 2016, https://arxiv.org/abs/1608.00507): is the hottest pixel in the place?

    Args:
      heat: [H, W] floats; where several pixels are hottest, their centre counts. Without any heat there is no hit.
      place: [H, W] bool, not empty.
      tolerance: how many pixels beside the place count as well.
    """
    if not heat.max() > 0:
        return False
    hottest = np.argwhere(heat == heat.max()).mean(axis=0)
    return bool(np.hypot(*(np.argwhere(place) - hottest).T).min() <= max(tolerance, 0.75))


def compute_share_inside(heat: np.ndarray, place: np.ndarray) -> float:
    """How much of the heat lies in the place (Wang et al. 2020, https://arxiv.org/abs/1910.01279), from 0 to 1."""
    return float(heat[place].sum() / heat.sum()) if heat.sum() > 0 else 0.0
