"""Images of a smaller side, reduced on access, in place of an array."""

import dataclasses

import numpy as np
from PIL import Image


@dataclasses.dataclass(frozen=True)
class ReducedImages:
    """An array-like [N, size, size] uint8 that reduces slices of others by Pillow's bilinear filter.

    Attributes:
      images: [N, S, S] uint8, an array or `LazyImages`.
      size: side in pixels.
    """

    images: np.ndarray
    size: int
    dtype = np.dtype(np.uint8)

    def __len__(self) -> int:
        return len(self.images)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(N, size, size)."""
        return len(self), self.size, self.size

    def __getitem__(self, rows: slice) -> np.ndarray:
        """Returns the images of a slice, [M, size, size] uint8."""
        read = self.images[rows]
        reduced = np.empty((len(read), self.size, self.size), np.uint8)
        for row, image in enumerate(read):
            whole = Image.fromarray(image)
            reduced[row] = np.asarray(whole.resize((self.size, self.size), Image.Resampling.BILINEAR))
        return reduced
