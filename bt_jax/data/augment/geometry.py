"""Geometric augmentation as one warp, so that pixels are interpolated once."""

import dataclasses
import itertools
import math

import numpy as np
from PIL import Image

Matrix = tuple[float, float, float, float, float, float]

_CELLS = 8  # of the mesh of an elastic warp, along a side
_WAVES = 4  # random displacements along a side, with smooth interpolation in between


@dataclasses.dataclass(frozen=True, kw_only=True)
class Warp:
    """A warp about the centre of a square.

    Attributes:
      mirrored: whether left and right are exchanged, after all else.
      angle: of the rotation, in radians.
      scale: of the picture in its frame.
      aspect: the picture is scaled by this factor across and by its inverse down.
      shift: across and down, as fractions of the side.
      displacements: `[_WAVES, _WAVES, 2]` float, displacements of grid points, across and down, as fractions of the
        side; None: no elastic warp.
    """

    mirrored: bool = False
    angle: float = 0.0
    scale: float = 1.0
    aspect: float = 1.0
    shift: tuple[float, float] = (0.0, 0.0)
    displacements: np.ndarray | None = None

    def __call__(self, picture: Image.Image) -> Image.Image:
        """Returns the warped picture, of the same size, by bilinear interpolation with black outside."""
        matrix = self._make_matrix(picture.width)
        if self.displacements is not None:
            mesh = _build_mesh(matrix, self.displacements, picture.width)
            return picture.transform(picture.size, Image.Transform.MESH, mesh, Image.Resampling.BILINEAR)
        return picture.transform(picture.size, Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR)

    @property
    def changes_nothing(self) -> bool:
        """Whether the warp is the identity."""
        values = (self.mirrored, self.angle, self.scale, self.aspect, self.shift)
        return self.displacements is None and values == (False, 0, 1, 1, (0, 0))

    def _make_matrix(self, size: int) -> Matrix:
        """Computes the matrix from pixels of the view to positions in the image."""
        across, down = self.scale * self.aspect, self.scale / self.aspect
        cosine, sine = math.cos(self.angle), math.sin(self.angle)
        sign = -1.0 if self.mirrored else 1.0
        centre = size / 2
        x, y = centre + self.shift[0] * size, centre + self.shift[1] * size  # of the image's centre in the view
        a, b, c, d = cosine / across, sine / across, -sine / down, cosine / down
        return sign * a, sign * b, centre - sign * (a * x + b * y), c, d, centre - c * x - d * y


def draw_displacements(generator: np.random.Generator, *, largest: float) -> np.ndarray:
    """Draws displacements of a grid: `[_WAVES, _WAVES, 2]` float64, of at most `largest` across and down."""
    return largest * generator.random() * generator.uniform(-1, 1, (_WAVES, _WAVES, 2))


def smooth(coarse: np.ndarray, *, size: int) -> np.ndarray:
    """Enlarges a coarse grid [n, n] by bicubic interpolation: [size, size] float32."""
    picture = Image.fromarray(coarse.astype(np.float32))
    return np.asarray(picture.resize((size, size), Image.Resampling.BICUBIC))


def _build_mesh(
    matrix: Matrix, displacements: np.ndarray, size: int
) -> list[tuple[tuple[int, int, int, int], tuple[float, ...]]]:
    """Builds boxes of the view with their corners in the image: upper left, lower left, lower right, upper right."""
    edges = np.linspace(0, size, _CELLS + 1).round().astype(int)  # [_CELLS + 1]
    x, y = np.meshgrid(edges, edges)
    a, b, c, d, e, f = matrix
    moved = [smooth(displacements[..., axis], size=_CELLS + 1) * size for axis in range(2)]
    corners = np.stack([a * x + b * y + c + moved[0], d * x + e * y + f + moved[1]], axis=-1)  # [rows, columns, 2]
    mesh = []
    for row, column in itertools.product(range(_CELLS), repeat=2):
        box = (int(edges[column]), int(edges[row]), int(edges[column + 1]), int(edges[row + 1]))
        if box[0] < box[2] and box[1] < box[3]:
            around = ((row, column), (row + 1, column), (row + 1, column + 1), (row, column + 1))
            mesh.append((box, tuple(float(value) for place in around for value in corners[place])))
    return mesh
