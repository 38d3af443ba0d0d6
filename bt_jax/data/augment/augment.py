"""Random views of a preprocessed image: one warp, looks, then intensities. Deterministic from a generator."""

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

# In the order in which they are applied. Those of style need a partner.
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
      crop: fraction of the side, in 0 .. crop, that is cut away; what is kept lies anywhere and fills the frame. 0.
      aspect: width over height is multiplied by a factor in 1 / (1 + aspect) .. 1 + aspect, log-uniform; the area
        stays. Default 0.
      elastic: fraction of the side; points of a coarse grid move by up to that, and the rest with them. Default 0.
      fourier: coarse amplitudes mixed with a partner's, see `style.exchange_amplitude`. Default 0.
      histogram: grey values mixed with a partner's, see `style.exchange_histogram`. Default 0.
      network: contrasts of a small random network, see `photometric.apply_random_network`. Default 0.
      convolution: texture of a random kernel, see `photometric.apply_random_convolution`. Default 0.
      bias_field: uneven brightness, see `photometric.apply_bias_field`. Default 0.
      sharpness: emphasised edges, see `photometric.sharpen`. Default 0.
      resolution: fewer pixels, see `photometric.reduce_resolution`. Default 0.
      jpeg: compression, see `photometric.compress_jpeg`. Default 0.
      curve: a random curve of intensities, see `photometric.draw_curve`. Default 0.
      cutout: a rectangle of one grey, see `photometric.cut_out`. Default 0.
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

    @classmethod
    def none(cls) -> "Augmentation":
        """Everything off."""
        return cls()


def augment(
    image: np.ndarray, *, generator: np.random.Generator, settings: Augmentation, partner: Partner | None = None
) -> np.ndarray:
    """A random view of an image.

    The same number of random numbers is drawn whatever is on, and the operations that need many have generators of
    their own, so that switching an operation off leaves the others as they were. Geometry is one bilinear warp with
    black outside; then come style and looks, blur, intensities (curve, gamma, contrast, brightness), noise and cutout.

    Args:
      image: `[S, S]` uint8.
      generator: the source of randomness, see `make_generator`.
      settings: which operations, and how strong.
      partner: gives another image `[S, S]` uint8, chosen by a generator; needed for `fourier` and `histogram`.

    Returns:
      `[S, S]` float32 in [0, 1]; with everything off the same as `to_float(image)`.
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
        # A generator of its own: the draws of the others must not depend on the size of the image.
        noise_generator = np.random.Generator(np.random.SFC64(int((noise_seed + 1) * 2**52)))
        result += (np.float32(deviation) * _NORMAL).take(
            noise_generator.integers(0, 65536, image.shape, np.uint16) >> 4
        )
        np.clip(result, 0, 1, out=result)
    if settings.cutout:
        result = photometric.cut_out(result, strength=settings.cutout, generator=own("cutout"))
    return result


def to_float(image: np.ndarray) -> np.ndarray:
    """uint8 of any shape -> float32 in [0, 1], the view without augmentation."""
    return np.divide(image, np.float32(255), dtype=np.float32)


def make_generator(*, seed: int, view: int, record: int) -> np.random.Generator:
    """The generator of one view (say, an epoch) of one record; depends on exactly these, each in 0 .. 2**64 - 1.

    The counter-based Philox keeps the streams of different arguments apart by construction (Salmon et al. 2011,
    "Parallel random numbers: as easy as 1, 2, 3"); mixing the three into one seed could let two of them collide.
    """
    key = np.array([seed, view], np.uint64)
    counter = np.array([0, 0, 0, record], np.uint64)
    return np.random.Generator(np.random.Philox(key=key, counter=counter))


def _compute_border_scale(width: float) -> float:
    """The factor that leaves a border of this fraction of the side on every side; negative: that crops as much."""
    return 1 - 2 * width if width > 0 else 1 / (1 + 2 * width)


def _extend_warp(
    warp: geometry.Warp, settings: Augmentation, own: Callable[[str], np.random.Generator]
) -> geometry.Warp:
    """The warp with crop, aspect and elastic deformation."""
    generator = own("crop")
    cut = settings.crop * generator.random()
    place = generator.uniform(-0.5, 0.5, 2) * cut  # of the middle of what is kept, from that of the image
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
    """A generator for one operation of one view; named, so that a new operation changes no other's draws."""
    return np.random.Generator(np.random.SFC64([seed, zlib.crc32(name.encode())]))


def _compute_curve(
    image: np.ndarray, *, start: np.ndarray, exponent: float, factor: float, offset: float
) -> np.ndarray:
    """What each of the 256 intensities, after those in `start`, becomes: `[256]` float32 in [0, 1]."""
    curve = start if exponent == 1 else start ** np.float32(exponent)
    if factor != 1:
        mean = curve.take(image).mean(dtype=np.float64)
        curve = (curve - np.float32(mean)) * np.float32(factor) + np.float32(mean)
    if offset != 0:
        curve = curve + np.float32(offset)
    return np.clip(curve, 0, 1)
