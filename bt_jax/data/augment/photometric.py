"""Photometric augmentation: random changes of appearance, as between scanners, archives and web pages.

Each function maps `[S, S]` uint8 to `[S, S]` uint8, with the configured strength and a generator of its own. They
follow BigAug (arXiv:1906.03347) and, for random convolutions, arXiv:2007.13003. Operations that leave visible artefacts
are applied to half of the images, at random.
"""

import io

import numpy as np
from PIL import Image, ImageFilter

from bt_jax.data.augment.geometry import smooth

_ENLARGING = (Image.Resampling.BILINEAR, Image.Resampling.BICUBIC, Image.Resampling.LANCZOS)
_REDUCING = (*_ENLARGING, Image.Resampling.BOX, Image.Resampling.HAMMING, Image.Resampling.NEAREST)
_BEST_QUALITY, _WORST_QUALITY = 95, 5  # of JPEG
_KERNELS = (1, 3, 5)  # sides
_DARKEST = 8 / 255  # darker pixels count as background
_CHANNELS, _SLOPE = (2, 2, 2, 1), np.float32(0.01)  # of the layers of a random network; of what is below 0 between them


def apply_bias_field(image: np.ndarray, *, strength: float, generator: np.random.Generator) -> np.ndarray:
    """Applies a smooth random bias field, like that of a receiver coil.

    Args:
      image: [S, S] uint8.
      strength: the field lies in 1 / (1 + strength) .. 1 + strength.
      generator: random number generator.
    """
    largest = strength * generator.random()
    field = smooth(generator.uniform(-1, 1, (4, 4)), size=image.shape[0])
    field = field / max(float(np.abs(field).max()), 1e-6)
    return to_bytes(image * np.exp(np.float32(np.log1p(largest)) * field))


def reduce_resolution(image: np.ndarray, *, strength: float, generator: np.random.Generator) -> np.ndarray:
    """Reduces and enlarges the image by randomly drawn resampling filters.

    Args:
      image: [S, S] uint8.
      strength: the side is reduced to at least 1 - strength of itself.
      generator: random number generator.
    """
    side = image.shape[0]
    small = max(1, round(side * (1 - strength * generator.random())))
    down, up = generator.integers(len(_REDUCING)), generator.integers(len(_ENLARGING))
    picture = Image.fromarray(image).resize((small, small), _REDUCING[down])
    return np.asarray(picture.resize((side, side), _ENLARGING[up]))


def sharpen(image: np.ndarray, *, strength: float, generator: np.random.Generator) -> np.ndarray:
    """Sharpens the image by an unsharp mask, as scanners and viewers do.

    Args:
      image: [S, S] uint8.
      strength: largest amount of the unsharp mask; 1 adds the difference to the blurred image once.
      generator: random number generator.
    """
    amount, radius = strength * generator.random(), generator.uniform(0.5, 2.5)
    mask = ImageFilter.UnsharpMask(radius=radius, percent=round(100 * amount), threshold=0)
    return np.asarray(Image.fromarray(image).filter(mask))


def compress_jpeg(image: np.ndarray, *, strength: float, generator: np.random.Generator) -> np.ndarray:
    """Compresses half of the images as JPEG.

    Args:
      image: [S, S] uint8.
      strength: at 1 the quality goes down to 5 of 100; at small values it stays near 95.
      generator: random number generator.
    """
    if generator.random() < 0.5:
        return image
    quality = round(_BEST_QUALITY - (_BEST_QUALITY - _WORST_QUALITY) * strength * generator.random())
    content = io.BytesIO()
    Image.fromarray(image).save(content, "JPEG", quality=quality)
    return np.asarray(Image.open(content))


def apply_random_convolution(image: np.ndarray, *, strength: float, generator: np.random.Generator) -> np.ndarray:
    """Mixes half of the images with a random convolution, which keeps shapes and changes texture.

    The kernel sums to 1, unlike that of arXiv:2007.13003, so that constant areas such as the black background keep
    their grey value, and bright areas stay bright.

    Args:
      image: [S, S] uint8.
      strength: largest share of the result in the mixture.
      generator: random number generator.
    """
    if generator.random() < 0.5:
        return image
    share, side = np.float32(strength * generator.random()), _KERNELS[generator.integers(len(_KERNELS))]
    kernel = generator.standard_normal((side, side), np.float32) / side
    kernel += (1 - kernel.sum()) / kernel.size
    kernel *= share
    kernel[side // 2, side // 2] += 1 - share
    return to_bytes(_filter(image.astype(np.float32)[None], kernel[None, None])[0])


def apply_random_network(image: np.ndarray, *, strength: float, generator: np.random.Generator) -> np.ndarray:
    """Mixes half of the images with the output of a shallow random network (arXiv:2111.12525).

    Its intensity curves are not monotonic, like the differences between MRI sequences: a structure that is brighter
    than its surroundings may become darker. Unlike in the paper, black stays black, and the head as a whole stays
    bright.

    Args:
      image: [S, S] uint8.
      strength: largest share of the result in the mixture.
      generator: random number generator.
    """
    if generator.random() < 0.5:
        return image
    share = np.float32(strength * generator.random())
    given = image.astype(np.float32) / 255
    inside = given[given > _DARKEST]
    if not inside.size or not inside.std() > 0:
        return image
    # Standardised by the greys of the head, so that the bends of the intensity curves fall among them.
    centre, spread = np.float32(inside.mean()), np.float32(inside.std())
    x = (given[None] - centre) / spread  # [channels, S, S]
    black = -centre / spread * np.ones(1, np.float32)  # output of the layers for a black area
    for channels in _CHANNELS:
        side = _KERNELS[generator.integers(2)]
        kernel = generator.standard_normal((channels, len(x), side, side), np.float32)
        shift = generator.standard_normal(channels, np.float32)
        x = _filter(x, kernel) + shift[:, None, None]
        black = kernel.sum((2, 3)) @ black + shift
        if channels > 1:
            x, black = (np.where(values > 0, values, _SLOPE * values) for values in (x, black))
    made = x[0] - black[0]
    if made.sum() < 0:
        made = -made
    # Scaled by a quantile, not by the norm as in the paper: a few bright edges would darken everything else.
    own, brightest = (float(np.quantile(values[::3, ::3], 0.99)) for values in (given, made))
    if not brightest > 0:
        return image
    return to_bytes(255 * ((1 - share) * given + share * np.float32(own / brightest) * made))


def _filter(image: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """Convolves [I, S, S] with a kernel [O, I, side, side], with edge padding: [O, S, S] float32."""
    side, size = kernel.shape[-1], image.shape[-1]
    around = np.pad(image, ((0, 0), (side // 2,) * 2, (side // 2,) * 2), mode="edge")
    result = np.zeros((len(kernel), size, size), np.float32)
    for (outward, inward, row, column), weight in np.ndenumerate(kernel):
        result[outward] += weight * around[inward, row : row + size, column : column + size]
    return result


def draw_curve(*, strength: float, generator: np.random.Generator) -> np.ndarray:
    """Draws a random nondecreasing lookup table of the 256 intensities: [256] float32 in [0, 1].

    It is a cubic Bezier curve from black to white with two random inner points, as in Models Genesis (arXiv:2004.07882)
    without its inverted curves, mixed with the identity.

    Args:
      strength: largest share of the curve in the mixture.
      generator: random number generator.
    """
    share = np.float32(strength * generator.random())
    x1, y1, x2, y2 = generator.random(4)
    t = np.linspace(0, 1, 128)
    first, second, third = 3 * t * (1 - t) ** 2, 3 * t**2 * (1 - t), t**3
    unit = np.linspace(0, 1, 256, dtype=np.float32)
    curve = np.interp(unit, first * x1 + second * x2 + third, first * y1 + second * y2 + third)
    return (1 - share) * unit + share * curve.astype(np.float32)


def cut_out(image: np.ndarray, *, strength: float, generator: np.random.Generator) -> np.ndarray:
    """Fills a random rectangle with a random grey in half of the images (random erasing, arXiv:1708.04896).

    Args:
      image: [S, S] float32 in [0, 1], as the result.
      strength: largest sides of the rectangle as fractions of the image's side.
      generator: random number generator.
    """
    if generator.random() < 0.5:
        return image
    size = image.shape[0]
    height, width = np.ceil(strength * generator.random(2) * size).astype(int)
    top, left = (int(generator.integers(size - side + 1)) for side in (height, width))
    result = image.copy()
    result[top : top + height, left : left + width] = generator.random()
    return result


def to_bytes(values: np.ndarray) -> np.ndarray:
    """Rounds, and clips to 0..255: uint8."""
    return np.clip(values + np.float32(0.5), 0, 255).astype(np.uint8)
