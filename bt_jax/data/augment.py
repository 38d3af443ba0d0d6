"""Random views of a preprocessed image: one affine warp, then intensities. Deterministic from a generator."""

import dataclasses
import math
import statistics

import numpy as np
from PIL import Image, ImageFilter

from bt_jax.errors import UsageError

_UNIT = np.arange(256, dtype=np.float32) / np.float32(255)

# Midpoints of 4096 equally likely slices of the normal distribution: drawing from them is several times faster than
# drawing normal numbers, and a grey value shows no difference.
_NORMAL = np.array([statistics.NormalDist().inv_cdf((slice_ + 0.5) / 4096) for slice_ in range(4096)], np.float32)

# Beyond these a view shows nothing of the head, or the operation is no longer defined.
_LIMITS = {
    "rotation": 0.5,
    "zoom": 0.9,
    "shift": 1.0,
    "contrast": 1.0,
    "brightness": 1.0,
    "gamma": 4.0,
    "noise": 1.0,
    "blur": 50.0,
    "border": 0.4,
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Augmentation:
    """How strongly each random operation works; 0 and False switch it off. All draws are uniform unless said.

    Attributes:
      flip: mirror left and right, with probability 1/2. Default False.
      rotation: fraction of a full turn, both ways: 0.2 is up to 72 degrees, as Keras `RandomRotation(0.2)`. Default 0.
      zoom: the head is scaled by a factor in 1 - zoom .. 1 + zoom. Default 0.
      shift: fraction of the side, both ways and in both directions independently. Default 0.
      contrast: distances from the image's mean are multiplied by a factor in 1 - contrast .. 1 + contrast, as Keras
        `RandomContrast(0.2)` does with 0.8 .. 1.2. Default 0.
      brightness: fraction of the full range that is added, in -brightness .. +brightness, as Keras
        `RandomBrightness(0.2)` does. Default 0.
      gamma: intensities in 0..1 are raised to an exponent in 1 / (1 + gamma) .. 1 + gamma, log-uniform, so that
        brighter and darker are equally likely. Default 0.
      noise: Gaussian noise with a standard deviation in 0 .. noise, as a fraction of the full range. Default 0.
      blur: Gaussian blur with a standard deviation in 0 .. blur, in pixels of the given image. Default 0.
      border: fraction of the side; an extra black border of a width in 0 .. border on every side, or as wide a crop,
        equally likely: the head is shrunk or enlarged inside the frame. Default 0.
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

    def __post_init__(self) -> None:
        if not isinstance(self.flip, bool):
            raise UsageError(f"augmentation.flip is {self.flip!r}: use True or False")
        for name, limit in _LIMITS.items():
            value = getattr(self, name)
            number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
            if not number or not 0 <= value <= limit:
                raise UsageError(f"augmentation.{name} is {value!r}: use a number from 0 (off) to {limit:g}")

    @classmethod
    def none(cls) -> "Augmentation":
        """Everything off."""
        return cls()


def augment(image: np.ndarray, *, generator: np.random.Generator, settings: Augmentation) -> np.ndarray:
    """A random view of an image.

    The same number of random numbers is drawn whatever is on, so that switching an operation off leaves the others as
    they were. Geometry is one bilinear warp with black outside; then blur, gamma, contrast, brightness and noise.

    Args:
      image: `[S, S]` uint8.
      generator: the source of randomness, see `generator_for`.
      settings: which operations, and how strong.

    Returns:
      `[S, S]` float32 in [0, 1]; with everything off the same as `to_float(image)`.
    """
    # [12] float64 in [-1, 1)
    flip, turn, zoom, across, down, contrast, brightness, gamma, noise, blur, border, noise_seed = (
        2 * generator.random(12) - 1
    ).tolist()
    matrix = _affine(
        size=image.shape[0],
        mirrored=settings.flip and flip < 0,
        angle=2 * math.pi * settings.rotation * turn,
        scale=(1 + settings.zoom * zoom) * _border_scale(settings.border * border),
        shift=(settings.shift * across, settings.shift * down),
    )
    sigma = settings.blur * abs(blur)
    if matrix is not None or sigma > 0:
        picture = Image.fromarray(image)
        if matrix is not None:
            picture = picture.transform(picture.size, Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR)
        if sigma > 0:
            picture = picture.filter(ImageFilter.GaussianBlur(sigma))
        image = np.asarray(picture)
    curve = _curve(
        image,
        exponent=(1 + settings.gamma) ** gamma,
        factor=1 + settings.contrast * contrast,
        offset=settings.brightness * brightness,
    )
    result = curve.take(image)  # [S, S] float32
    deviation = settings.noise * abs(noise)
    if deviation > 0:
        # A generator of its own: the draws of the others must not depend on the size of the image.
        noise_generator = np.random.Generator(np.random.SFC64(int((noise_seed + 1) * 2**52)))
        result += (np.float32(deviation) * _NORMAL).take(
            noise_generator.integers(0, 65536, image.shape, np.uint16) >> 4
        )
        np.clip(result, 0, 1, out=result)
    return result


def to_float(image: np.ndarray) -> np.ndarray:
    """uint8 of any shape -> float32 in [0, 1], the view without augmentation."""
    return np.divide(image, np.float32(255), dtype=np.float32)


def generator_for(*, seed: int, view: int, record: int) -> np.random.Generator:
    """The generator of one view (say, an epoch) of one record; depends on exactly these, each in 0 .. 2**64 - 1.

    The counter-based Philox keeps the streams of different arguments apart by construction (Salmon et al. 2011,
    "Parallel random numbers: as easy as 1, 2, 3"); mixing the three into one seed could let two of them collide.
    """
    key = np.array([seed, view], np.uint64)
    counter = np.array([0, 0, 0, record], np.uint64)
    return np.random.Generator(np.random.Philox(key=key, counter=counter))


def _border_scale(width: float) -> float:
    """The factor that leaves a border of this fraction of the side on every side; negative: that crops as much."""
    return 1 - 2 * width if width > 0 else 1 / (1 + 2 * width)


def _affine(
    *, size: int, mirrored: bool, angle: float, scale: float, shift: tuple[float, float]
) -> tuple[float, float, float, float, float, float] | None:
    """The matrix that takes a pixel of the view to its place in the image; None where it would change nothing."""
    if not mirrored and angle == 0 and scale == 1 and shift == (0, 0):
        return None
    cosine, sine = math.cos(angle) / scale, math.sin(angle) / scale
    sign = -1.0 if mirrored else 1.0
    centre = size / 2
    x, y = centre + shift[0] * size, centre + shift[1] * size  # where the image's centre goes
    return (
        sign * cosine,
        sign * sine,
        centre - sign * (cosine * x + sine * y),
        -sine,
        cosine,
        centre + sine * x - cosine * y,
    )


def _curve(image: np.ndarray, *, exponent: float, factor: float, offset: float) -> np.ndarray:
    """What each of the 256 intensities becomes: `[256]` float32 in [0, 1]."""
    curve = _UNIT if exponent == 1 else _UNIT ** np.float32(exponent)
    if factor != 1:
        mean = curve.take(image).mean(dtype=np.float64)
        curve = (curve - np.float32(mean)) * np.float32(factor) + np.float32(mean)
    if offset != 0:
        curve = curve + np.float32(offset)
    return np.clip(curve, 0, 1)
