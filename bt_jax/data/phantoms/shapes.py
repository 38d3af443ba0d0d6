"""Building blocks of the phantoms: the canonical grid, soft shapes, smooth noise, tissues.

Coordinates are u (to the right) and v (down) from -1.1 to 1.1; a head is about 2 high. Shapes are implicit functions
that are positive inside; `soften` turns them into masks with an edge of a pixel or two.
"""

import dataclasses
import math

import numpy as np
from PIL import Image

PLANES = ("axial", "coronal", "sagittal")
SIZE = 176
HEIGHT = 2.0 / 2.2 * SIZE

_AXIS = ((np.arange(SIZE, dtype=np.float32) + 0.5) / SIZE - 0.5) * 2.2
U, V = (np.ascontiguousarray(grid) for grid in np.meshgrid(_AXIS, _AXIS))

# Where pituitary tumours grow, (u, v) of the sella.
SELLA = {"axial": (0.0, -0.06), "coronal": (0.0, 0.13), "sagittal": (-0.13, 0.16)}
# Centre and half-axes of the cranium.
CRANIUM = {"axial": (0.0, 0.0, 0.80, 0.98), "coronal": (0.0, -0.24, 0.74, 0.76), "sagittal": (0.06, -0.22, 0.92, 0.78)}
SCALP, SKULL, FLUID = 0.07, 0.06, 0.03  # thickness of the layers


@dataclasses.dataclass(frozen=True)
class Tissue:
    """Intensities of one patient's sequence."""

    scalp: float
    skull: float
    marrow: float
    muscle: float
    fluid: float
    grey: float
    white: float
    enhanced: float  # what takes up contrast, or the brightest of the sequence
    oedema: float


# T1 with contrast, FLAIR and T2, each with its probability.
_SEQUENCES = (
    (0.60, Tissue(0.85, 0.05, 0.30, 0.42, 0.10, 0.36, 0.47, 0.82, 0.28)),
    (0.20, Tissue(0.60, 0.05, 0.20, 0.36, 0.09, 0.52, 0.40, 0.85, 0.72)),
    (0.20, Tissue(0.55, 0.05, 0.22, 0.25, 0.86, 0.48, 0.33, 0.68, 0.66)),
)


def draw_tissue(generator: np.random.Generator) -> Tissue:
    """Draws the intensities of one patient."""
    number = generator.choice(len(_SEQUENCES), p=[share for share, _ in _SEQUENCES])
    values = np.array(dataclasses.astuple(_SEQUENCES[number][1]))
    return Tissue(*(values * generator.uniform(0.88, 1.12, len(values))).tolist())


def paint(image: np.ndarray, mask: np.ndarray, value: float | np.ndarray) -> None:
    """Blends the image, in place, towards `value` by `mask` (0..1)."""
    image += mask * (value - image)


def soften(inside: np.ndarray, width: float = 0.02) -> np.ndarray:
    """Converts an implicit function, positive inside, to a mask 0..1 with an edge of `width` in its units."""
    return np.clip(inside * (1 / width) + 0.5, 0, 1)


def measure_ellipse(
    u: np.ndarray, v: np.ndarray, centre: tuple[float, float], half: tuple[float, float], angle: float = 0.0
) -> np.ndarray:
    """Computes the approximate signed distance to an ellipse, positive inside."""
    cosine, sine = math.cos(angle), math.sin(angle)
    du, dv = u - centre[0], v - centre[1]
    x = (cosine / half[0]) * du + (sine / half[0]) * dv
    y = (-sine / half[1]) * du + (cosine / half[1]) * dv
    return (1 - np.sqrt(x * x + y * y)) * min(half)


def smooth_noise(values: np.ndarray, cells: int) -> np.ndarray:
    """Interpolates the first `cells` x `cells` random values to noise `[SIZE, SIZE]` of about unit variance."""
    coarse = Image.fromarray(np.ascontiguousarray(values[:cells, :cells]))
    return np.asarray(coarse.resize((SIZE, SIZE), Image.Resampling.BICUBIC))
