"""Image registration: aligns one thumbnail with another, then compares their fine detail.

Correlation without alignment cannot identify copies: adjacent slices often correlate more with a slice than its copy
cropped by a few pixels. After alignment, the copy agrees in fine detail, and the adjacent slice does not.
"""

import dataclasses

import numpy as np

# From coarse to fine: pixels averaged into one, Gauss-Newton steps, and the correlation of the whole and of detail that
# a pair must reach for the next level.
_LEVELS = ((4, 6, 0.84, 0.7), (2, 4, 0.94, 0.93), (1, 3, 0.0, 0.0))
_SCALES, _FIRST_STEPS = (1.0, 0.85, 1.18), 3
_SMALLEST_OVERLAP = 0.5
_LARGEST_CHANGE = 0.4  # of a side: largest scale change, shear and rotation of a copy


@dataclasses.dataclass(frozen=True)
class Alignment:
    """How well pairs agree after alignment; all fields [P] float32, zeros for pairs that fail at a coarse level.

    Attributes:
      correlation: of the pixels in the overlap.
      detail: correlation of detail finer than a sixteenth of a side.
      overlap: fraction of the first image that the second covers.
    """

    correlation: np.ndarray
    detail: np.ndarray
    overlap: np.ndarray


def compare_unaligned(a: np.ndarray, b: np.ndarray) -> Alignment:
    """Compares pairs of thumbnails `a` and `b`, both [P, S, S], without alignment."""
    a, b = _normalise(a), _normalise(b)
    inside = np.ones(a.shape, bool)
    detail = _correlate(_filter_band(a), _filter_band(b), inside)
    return Alignment(_correlate(a, b, inside), detail, np.ones(len(a), np.float32))


def align(a: np.ndarray, b: np.ndarray) -> Alignment:
    """Aligns each of `b` [P, S, S] with its partner in `a` [P, S, S] and compares them; S is a multiple of 4.

    The transform is affine: shift, scale, small rotation and shear; brightness and contrast may differ. Gauss-Newton on
    the squared difference (Lucas and Kanade 1981) finds it, from coarse to fine, if the images are nearly aligned.
    """
    return Alignment(*_align(_normalise(a), _normalise(b)))


def _align(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    result = np.zeros((3, len(a)), np.float32)
    kept = np.arange(len(a))
    move = _find_start(a, b)
    for pixels, steps, least_correlation, least_detail in _LEVELS:
        coarse_a, coarse_b = _average(a[kept], pixels), _average(b[kept], pixels)
        move = _fit(coarse_a, coarse_b, move, steps=steps)
        moved, inside = _move(coarse_b, move)
        correlation = _correlate(coarse_a, moved, inside)
        detail = _correlate(_filter_band(coarse_a), _move(_filter_band(coarse_b), move)[0], inside)
        overlap = inside.mean((1, 2))
        fits = (
            (correlation >= least_correlation)
            & (detail >= least_detail)
            & (overlap >= _SMALLEST_OVERLAP)
            & (np.abs(move[:, :, 1:]).max((1, 2)) <= _LARGEST_CHANGE)
        )
        kept, move = kept[fits], move[fits]
    result[:, kept] = correlation[fits], detail[fits], overlap[fits]
    return result


def _normalise(images: np.ndarray) -> np.ndarray:
    """Normalises to mean 0 and variance 1, [P, S, S] float32; nearly constant images become 0."""
    images = images - images.mean((1, 2), keepdims=True, dtype=np.float32)
    deviation = images.std((1, 2), keepdims=True)
    return np.divide(images, deviation, out=np.zeros_like(images), where=deviation > 0.1)


def _find_start(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Finds the best initial transform [P, 2, 3] among a few scales, after a few steps on the coarsest level."""
    coarse_a, coarse_b = _average(a, _LEVELS[0][0]), _average(b, _LEVELS[0][0])
    best, best_move = np.full(len(a), -1, np.float32), np.zeros((len(a), 2, 3), np.float32)
    for scale in _SCALES:
        move = np.zeros_like(best_move)
        move[:, 0, 1] = move[:, 1, 2] = scale - 1
        move = _fit(coarse_a, coarse_b, move, steps=_FIRST_STEPS)
        correlation = _correlate(coarse_a, *_move(coarse_b, move))
        better = correlation > best
        best[better], best_move[better] = correlation[better], move[better]
    return best_move


def _fit(a: np.ndarray, b: np.ndarray, move: np.ndarray, *, steps: int) -> np.ndarray:
    """Fits the transform [P, 2, 3] that aligns b with a, starting from `move`; lengths are in halves of a side."""
    p, size, _ = a.shape
    y, x = _make_grid(size)
    columns = np.empty((p, 8, size, size), np.float32)
    for _ in range(steps):
        moved, inside = _move(b, move)
        slope_y, slope_x = (slope * inside for slope in np.gradient(moved, 2 / size, axis=(1, 2)))
        columns[:, 0], columns[:, 1], columns[:, 2] = slope_x, slope_x * x, slope_x * y
        columns[:, 3], columns[:, 4], columns[:, 5] = slope_y, slope_y * x, slope_y * y
        columns[:, 6], columns[:, 7] = moved * inside, inside
        flat = columns.reshape(p, 8, size * size)
        products = flat @ flat.transpose(0, 2, 1)
        wanted = flat @ a.reshape(p, size * size, 1)
        # A little damping, relative to each column, keeps images without gradients stable.
        scale = np.einsum("pii->pi", products)
        products[:, range(8), range(8)] += 1e-3 * scale + 1e-6 * scale.max(1, keepdims=True) + 1e-6
        solution = np.linalg.solve(products, wanted)[..., 0]
        contrast = solution[:, 6:7]
        step = np.divide(solution[:, :6], contrast, out=np.zeros((p, 6), np.float32), where=contrast > 0.05)
        step = np.clip(step, -0.2, 0.2).reshape(p, 2, 3)
        # The gradients are those of the transformed image, so the step is applied before the transform so far.
        linear = move[:, :, 1:]
        move = move + step + np.concatenate([linear @ step[:, :, :1], linear @ step[:, :, 1:]], 2)
    return move


def _make_grid(size: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the coordinates of the pixel centres along rows and columns, from -1 to 1."""
    line = ((np.arange(size) + 0.5) * 2 / size - 1).astype(np.float32)
    return line[:, None], line[None, :]


def _move(b: np.ndarray, move: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Samples b [P, S, S] bilinearly at the transformed positions; also returns which are inside: [P, S, S] bool."""
    p, size, _ = b.shape
    y, x = _make_grid(size)
    inside = np.ones((p, size, size), bool)
    corner = (np.arange(p, dtype=np.int32) * (size * size))[:, None, None]
    shares = []
    for line, part, stride in ((x, move[:, 0], 1), (y, move[:, 1], size)):
        constant, by_x, by_y = (part[:, k, None, None] * np.float32(size / 2) for k in range(3))
        place = (line * np.float32(size / 2) + np.float32(size / 2 - 0.5) + constant) + by_x * x + by_y * y
        inside &= np.abs(place - np.float32(size / 2 - 0.5)) <= size / 2
        np.clip(place, 0, size - 1, out=place)
        whole = np.minimum(place.astype(np.int32), size - 2)
        corner = corner + whole * np.int32(stride)
        shares.append(place - whole)
    flat = b.ravel()
    upper = flat.take(corner)
    upper += (flat.take(corner + 1) - upper) * shares[0]
    corner += size
    lower = flat.take(corner)
    lower += (flat.take(corner + 1) - lower) * shares[0]
    upper += (lower - upper) * shares[1]
    return upper, inside


def _correlate(a: np.ndarray, b: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """Correlates the pixels inside: [P] float32; 0 if one side is nearly constant."""
    weights, a, b = (side.reshape(len(a), a.shape[1] * a.shape[2]) for side in (inside.astype(np.float32), a, b))
    a, b = a * weights, b * weights
    count, of_a, of_b = np.maximum(weights.sum(1), 1), a.sum(1), b.sum(1)
    squares_a, squares_b, products = (np.einsum("pd,pd->p", *sides) for sides in ((a, a), (b, b), (a, b)))
    lengths = np.sqrt(np.maximum((squares_a - of_a**2 / count) * (squares_b - of_b**2 / count), 0))
    products -= of_a * of_b / count
    return np.divide(products, lengths, out=np.zeros_like(lengths), where=lengths > 1e-3 * count)


def _average(images: np.ndarray, pixels: int) -> np.ndarray:
    """Averages blocks of pixels: [P, S, S] -> [P, S / pixels, S / pixels]."""
    p, size, _ = images.shape
    return images.reshape(p, size // pixels, pixels, size // pixels, pixels).mean((2, 4))


def _filter_band(images: np.ndarray) -> np.ndarray:
    """Removes from [P, S, S] the coarse part, and the finest part, which interpolation blurs on one side only."""
    return _blur(images, 1) - _blur(images, 4)


def _blur(images: np.ndarray, times: int) -> np.ndarray:
    """Blurs [P, S, S] in both directions with the weights 1, 2, 1, several times."""
    for _ in range(times):
        wide = np.concatenate([images[:, :1], images, images[:, -1:]], 1)
        wide = wide[:, :-1] + wide[:, 1:]
        images = wide[:, :-1] + wide[:, 1:]
        wide = np.concatenate([images[..., :1], images, images[..., -1:]], 2)
        wide = wide[..., :-1] + wide[..., 1:]
        images = (wide[..., :-1] + wide[..., 1:]) / 16
    return images
