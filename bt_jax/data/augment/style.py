"""Style transfer between images: exchange of the grey-level histogram, or of low-frequency amplitudes, with a partner.

Images and results are `[S, S]` uint8. The anatomy remains that of `image`. Half of the images are changed, at random.
"""

import numpy as np

from bt_jax.data.augment.photometric import to_bytes

_BLACKEST = 8  # grey levels: darker pixels count as background, and stay the same
_STEEPEST = 3.0  # largest slope of a curve of grey values: steeper ones amplify noise
# Size of the window of exchanged frequencies as a fraction of the side, beta in arXiv:2004.05498; larger ones ripple.
_LOWEST, _HIGHEST = 0.005, 0.03


def exchange_histogram(
    image: np.ndarray, *, partner: np.ndarray, strength: float, generator: np.random.Generator
) -> np.ndarray:
    """Maps grey values by a nondecreasing curve, so that their distribution inside the head matches the partner's.

    The slope of the curve is limited to 3.

    Args:
      image: [S, S] uint8.
      partner: [S, S] uint8.
      strength: largest share of the mapped values in a mixture with the original ones.
      generator: random number generator.
    """
    if generator.random() < 0.5:
        return image
    own, other = (np.bincount(each.ravel(), minlength=256)[_BLACKEST:] for each in (image, partner))
    if not own.any() or not other.any():
        return image
    values = np.arange(_BLACKEST, 256)
    # Ranks at the middle of each level's share, so that matching an image with itself changes nothing.
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
    """Mixes low-frequency amplitudes with the partner's, and keeps phases (arXiv:2004.05498, 2105.11120).

    Args:
      image: [S, S] uint8.
      partner: [S, S] uint8.
      strength: largest share of the partner's amplitudes in the mixture.
      generator: random number generator.
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
