"""Augmentation of a preprocessed image: one warp, style and photometric changes, then intensities. Deterministic."""

import dataclasses
import functools
import math
import statistics
import zlib
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageFilter

from bt_jax.common.errors import UsageError
from bt_jax.data.augment import geometry, photometric, style

_UNIT = np.arange(256, dtype=np.float32) / np.float32(255)

# Midpoints of 4096 equally likely slices of the normal distribution. Drawing from them is several times faster than
# drawing normal numbers, and indistinguishable in grey levels.
_NORMAL = np.array([statistics.NormalDist().inv_cdf((slice_ + 0.5) / 4096) for slice_ in range(4096)], np.float32)

# Beyond these limits a view no longer shows the head, or the operation is undefined.
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
    "crop": 0.5,
    "aspect": 0.5,
    "elastic": 0.05,
    "fourier": 1.0,
    "histogram": 1.0,
    "network": 1.0,
    "convolution": 1.0,
    "bias_field": 2.0,
    "sharpness": 5.0,
    "resolution": 0.75,
    "jpeg": 1.0,
    "curve": 1.0,
    "cutout": 0.5,
}

# In the order of application. The style operations need a partner.
_STYLES = {"fourier": style.exchange_amplitude, "histogram": style.exchange_histogram}
_LOOKS = {
    "network": photometric.apply_random_network,
    "convolution": photometric.apply_random_convolution,
    "bias_field": photometric.apply_bias_field,
    "sharpness": photometric.sharpen,
    "resolution": photometric.reduce_resolution,
    "jpeg": photometric.compress_jpeg,
}

Partner = Callable[[np.random.Generator], np.ndarray]


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
      fourier: coarse amplitudes mixed with a partner's, see `style.exchange_amplitude`.
      histogram: grey values mixed with a partner's, see `style.exchange_histogram`.
      network: contrasts of a small random network, see `photometric.apply_random_network`.
      convolution: texture of a random kernel, see `photometric.apply_random_convolution`.
      bias_field: uneven brightness, see `photometric.apply_bias_field`.
      sharpness: emphasised edges, see `photometric.sharpen`.
      resolution: fewer pixels, see `photometric.reduce_resolution`.
      jpeg: compression, see `photometric.compress_jpeg`.
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
    fourier: float = 0.0
    histogram: float = 0.0
    network: float = 0.0
    convolution: float = 0.0
    bias_field: float = 0.0
    sharpness: float = 0.0
    resolution: float = 0.0
    jpeg: float = 0.0
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


def augment(
    image: np.ndarray, *, generator: np.random.Generator, settings: Augmentation, partner: Partner | None = None
) -> np.ndarray:
    """Computes a random view of an image.

    The number of random draws does not depend on the settings, and operations that need many draws have generators of
    their own. So switching an operation off does not change the others. All geometry is one bilinear warp with black
    outside. Style and photometric changes, blur, intensities (curve, gamma, contrast, brightness), noise and cutout
    follow.

    Args:
      image: `[S, S]` uint8.
      generator: source of randomness, see `make_generator`.
      settings: strength of each operation.
      partner: returns another image `[S, S]` uint8, chosen by a generator; needed for `fourier` and `histogram`.

    Returns:
      `[S, S]` float32 in [0, 1]; with everything off, equal to `to_float(image)`.
    """
    # [13] float64 in [-1, 1)
    flip, turn, zoom, across, down, contrast, brightness, gamma, noise, blur, border, noise_seed, seed = (
        2 * generator.random(13) - 1
    ).tolist()
    own = functools.partial(_make_own_generator, int((seed + 1) * 2**52))
    warp = geometry.Warp(
        mirrored=settings.flip and flip < 0,
        angle=2 * math.pi * settings.rotation * turn,
        scale=(1 + settings.zoom * zoom) * _compute_border_scale(settings.border * border),
        shift=(settings.shift * across, settings.shift * down),
    )
    if settings.crop or settings.aspect or settings.elastic:
        warp = _extend_warp(warp, settings, own)
    if not warp.changes_nothing:
        image = np.asarray(warp(Image.fromarray(image)))
    for name, exchange in _STYLES.items():
        if strength := getattr(settings, name):
            if partner is None:
                raise ValueError(f"augmentation.{name} needs a partner")
            private = own(name)
            image = exchange(image, partner=partner(private), strength=strength, generator=private)
    for name, look in _LOOKS.items():
        if strength := getattr(settings, name):
            image = look(image, strength=strength, generator=own(name))
    sigma = settings.blur * abs(blur)
    if sigma > 0:
        image = np.asarray(Image.fromarray(image).filter(ImageFilter.GaussianBlur(sigma)))
    curve = _compute_curve(
        image,
        start=photometric.draw_curve(strength=settings.curve, generator=own("curve")) if settings.curve else _UNIT,
        exponent=(1 + settings.gamma) ** gamma,
        factor=1 + settings.contrast * contrast,
        offset=settings.brightness * brightness,
    )
    result = curve.take(image)  # [S, S] float32
    deviation = settings.noise * abs(noise)
    if deviation > 0:
        # Has its own generator, since the draws of other operations must not depend on the size of the image.
        noise_generator = np.random.Generator(np.random.SFC64(int((noise_seed + 1) * 2**52)))
        result += (np.float32(deviation) * _NORMAL).take(
            noise_generator.integers(0, 65536, image.shape, np.uint16) >> 4
        )
        np.clip(result, 0, 1, out=result)
    if settings.cutout:
        result = photometric.cut_out(result, strength=settings.cutout, generator=own("cutout"))
    return result


def to_float(image: np.ndarray) -> np.ndarray:
    """Converts uint8 of any shape to float32 in [0, 1]: the view without augmentation."""
    return np.divide(image, np.float32(255), dtype=np.float32)


def make_generator(*, seed: int, view: int, record: int) -> np.random.Generator:
    """Makes the generator of one view (such as an epoch) of one record, from these arguments in 0 .. 2**64 - 1 alone.

    The counter-based Philox separates the streams of different arguments by construction (Salmon et al. 2011, "Parallel
    random numbers: as easy as 1, 2, 3"). Hashing the three into one seed could cause collisions.
    """
    key = np.array([seed, view], np.uint64)
    counter = np.array([0, 0, 0, record], np.uint64)
    return np.random.Generator(np.random.Philox(key=key, counter=counter))


def _compute_border_scale(width: float) -> float:
    """Computes the scale that leaves a border of this fraction of the side on every side; negative values crop."""
    return 1 - 2 * width if width > 0 else 1 / (1 + 2 * width)


def _extend_warp(
    warp: geometry.Warp, settings: Augmentation, own: Callable[[str], np.random.Generator]
) -> geometry.Warp:
    """Adds crop, aspect and elastic deformation to a warp."""
    generator = own("crop")
    cut = settings.crop * generator.random()
    place = generator.uniform(-0.5, 0.5, 2) * cut  # offset of the crop's centre from the image's centre
    enlarged = 1 / (1 - cut)
    elastic = geometry.draw_displacements(own("elastic"), largest=settings.elastic) if settings.elastic else None
    return dataclasses.replace(
        warp,
        scale=warp.scale * enlarged,
        aspect=(1 + settings.aspect) ** own("aspect").uniform(-0.5, 0.5),
        shift=(warp.shift[0] - place[0] * enlarged, warp.shift[1] - place[1] * enlarged),
        displacements=elastic,
    )


def _make_own_generator(seed: int, name: str) -> np.random.Generator:
    """Makes the generator for one named operation of one view, so that a new operation does not change other draws."""
    return np.random.Generator(np.random.SFC64([seed, zlib.crc32(name.encode())]))


def _compute_curve(
    image: np.ndarray, *, start: np.ndarray, exponent: float, factor: float, offset: float
) -> np.ndarray:
    """Computes the lookup table of the 256 intensities, applied after `start`: `[256]` float32 in [0, 1]."""
    curve = start if exponent == 1 else start ** np.float32(exponent)
    if factor != 1:
        mean = curve.take(image).mean(dtype=np.float64)
        curve = (curve - np.float32(mean)) * np.float32(factor) + np.float32(mean)
    if offset != 0:
        curve = curve + np.float32(offset)
    return np.clip(curve, 0, 1)
