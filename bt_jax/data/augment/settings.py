"""The strength of each random operation of an augmentation, and its limits."""

import dataclasses
import math

from bt_jax.common.errors import UsageError

# Beyond these limits a view no longer shows the head, or the operation is undefined.
_LIMITS = {
    "rotation": 0.5,
    "zoom": 0.9,
    "shift": 1.0,
    "contrast": 1.0,
    "brightness": 1.0,
    "gamma": 4.0,
    "noise": 1.0,
    "blur": 10.0,
    "border": 0.4,
    "crop": 0.5,
    "aspect": 0.5,
    "elastic": 0.05,
    "bias_field": 2.0,
    "sharpness": 5.0,
    "resolution": 0.75,
    "curve": 1.0,
    "cutout": 0.5,
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Augmentation:
    """The strength of each random operation. 0 and False, the defaults, switch it off.

    Draws are uniform unless stated otherwise.

    Attributes:
      flip: mirrors left and right with probability 1/2.
      rotation: fraction of a full turn, in both directions: 0.2 is up to 72 degrees, like Keras
        `RandomRotation(0.2)`.
      zoom: the head is scaled by a factor in 1 - zoom .. 1 + zoom.
      shift: fraction of the side, independently across and down, in both directions.
      contrast: distances from the image's mean are multiplied by a factor in 1 - contrast .. 1 + contrast, as Keras
        `RandomContrast(0.2)` does with 0.8 .. 1.2.
      brightness: fraction of the full range that is added, in -brightness .. +brightness, as Keras
        `RandomBrightness(0.2)` does.
      gamma: intensities in 0..1 are raised to an exponent in 1 / (1 + gamma) .. 1 + gamma, log-uniform, so that
        brighter and darker are equally likely.
      noise: Gaussian noise with a standard deviation in 0 .. noise, as a fraction of the full range.
      blur: Gaussian blur with a standard deviation in 0 .. blur, in pixels of the given image.
      border: fraction of the side; adds a black border of a width in 0 .. border on every side, or crops as much, with
        equal probability: the head becomes smaller or larger in the frame.
      crop: fraction of the side, in 0 .. crop, that is cut away at a random position; the rest fills the frame.
      aspect: width over height is multiplied by a factor in 1 / (1 + aspect) .. 1 + aspect, log-uniform, with the same
        area.
      elastic: fraction of the side; displaces the points of a coarse grid by up to that, and interpolates in between.
      bias_field: uneven brightness, see `photometric.apply_bias_field`.
      sharpness: emphasised edges, see `photometric.sharpen`.
      resolution: fewer pixels, see `photometric.reduce_resolution`.
      curve: a random curve of intensities, see `photometric.draw_curve`.
      cutout: a rectangle of one grey, see `photometric.cut_out`.
    """

    flip: bool = False
    rotation: float = 0.0
    zoom: float = 0.0
    shift: float = 0.0
    contrast: float = 0.0
    brightness: float = 0.0
    gamma: float = 0.0
    noise: float = 0.0
    blur: float = 0.0
    border: float = 0.0
    crop: float = 0.0
    aspect: float = 0.0
    elastic: float = 0.0
    bias_field: float = 0.0
    sharpness: float = 0.0
    resolution: float = 0.0
    curve: float = 0.0
    cutout: float = 0.0

    def __post_init__(self) -> None:
        if not isinstance(self.flip, bool):
            raise UsageError(f"augmentation.flip is {self.flip!r}: use True or False")
        for name, limit in _LIMITS.items():
            value = getattr(self, name)
            number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
            if not number or not 0 <= value <= limit:
                raise UsageError(f"augmentation.{name} is {value!r}: use a number from 0 (off) to {limit:g}")
