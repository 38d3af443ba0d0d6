"""The look of one image given to another: grey values, or the coarse part of the spectrum, of a partner.

Both are `[S, S]` uint8, and so is the result, whose anatomy is that of `image`. Every second image is changed.
"""

import numpy as np

from bt_jax.data.augment.photometric import to_bytes

_BLACKEST = 8  # grey levels: what is darker is taken for the surroundings of the head, and stays
_STEEPEST = 3.0  # slope of a curve of grey values: one that is steeper makes grains of noise
# Of the window of exchanged frequencies, as shares of the side: beta in arXiv:2004.05498. Above, waves cross the head.
_LOWEST, _HIGHEST = 0.005, 0.03


def exchange_histogram(
    image: np.ndarray, *, partner: np.ndarray, strength: float, generator: np.random.Generator
) -> np.ndarray:
    """Grey values mapped by a curve that never falls, so that inside the head they spread as the partner's do.

    Where the curve would be steeper than 3 it is cut to that, and lies lower from there on.

    Args:
      image: [S, S] uint8.
      partner: [S, S] uint8.
      strength: share of the mapped values in a mixture with the image's own, at most.
      generator: of random numbers.
    """
    if generator.random() < 0.5:
        return image
    own, other = (np.bincount(each.ravel(), minlength=256)[_BLACKEST:] for each in (image, partner))
    if not own.any() or not other.any():
        return image
    values = np.arange(_BLACKEST, 256)
    # Ranks at the middle of each level's share, so that an image matched with itself stays as it is.
    ranks = [(np.cumsum(counts) - counts / 2) / counts.sum() for counts in (own, other)]
    present = other > 0
    mapped = np.interp(ranks[0], ranks[1][present], values[present])
    mapped = mapped[0] + np.cumsum(np.minimum(np.diff(mapped, prepend=mapped[0]), _STEEPEST))
    share = strength * generator.random()
    curve = np.arange(256, dtype=np.float64)
    curve[_BLACKEST:] += share * (mapped - values)
    return to_bytes(curve.astype(np.float32)).take(image)


def exchange_amplitude(
    image: np.ndarray, *, partner: np.ndarray, strength: float, generator: np.random.Generator
) -> np.ndarray:
    """Amplitudes of the lowest frequencies mixed with the partner's, phases kept (arXiv:2004.05498, 2105.11120).

    Args:
      image: [S, S] uint8.
      partner: [S, S] uint8.
      strength: share of the partner's amplitudes in the mixture, at most.
      generator: of random numbers.
    """
    if generator.random() < 0.5:
        return image
    size = image.shape[0]
    share = np.float32(strength * generator.random())
    reach = int(size * generator.uniform(_LOWEST, _HIGHEST))
    own, other = (np.fft.rfft2(each.astype(np.float32)) for each in (image, partner))
    for rows in (slice(0, reach + 1), slice(size - reach, size)):
        low = own[rows, : reach + 1]
        amplitude = np.abs(low)
        wanted = (1 - share) * amplitude + share * np.abs(other[rows, : reach + 1])
        low *= np.divide(wanted, amplitude, out=np.ones_like(amplitude), where=amplitude > 0)
    return to_bytes(np.fft.irfft2(own, s=image.shape))
