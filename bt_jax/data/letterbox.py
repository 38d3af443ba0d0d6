"""The position of an image in the square network input, and the mapping back to the image."""

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class Letterbox:
    """A rectangle of an image, resized to whole pixels and placed in a black square.

    Points are (x, y), counted from the upper left corner, so that the first pixel's centre is (0.5, 0.5).

    Attributes:
      frame: width and height of the image in pixels.
      seen: the rectangle of the image: left, top, right, bottom in its pixels, may be fractional.
      corner: the rectangle's upper left corner in the square, in whole pixels.
      extent: the rectangle's width and height in the square, in whole pixels.
      size: side of the square in pixels.
    """

    frame: tuple[int, int]
    seen: tuple[float, float, float, float]
    corner: tuple[int, int]
    extent: tuple[int, int]
    size: int

    def map_to_image(self, values: np.ndarray) -> np.ndarray:
        """Maps values on the square, such as a heat map, to the pixels of the image.

        Values are interpolated bilinearly between the centres of the square's pixels, and never from the black padding
        around the rectangle. Pixels of the image that the network did not see become 0.

        Args:
          values: [size, size] floats.

        Returns:
          [H, W] float32.
        """
        rows, columns = (self._compute_weights(axis) for axis in (1, 0))
        return (rows @ np.asarray(values, np.float32) @ columns.T).astype(np.float32)

    def _compute_weights(self, axis: int) -> np.ndarray:
        """Computes interpolation weights along an axis (0: x, 1: y), from the square to the image: [length, size]."""
        length = self.frame[axis]
        centres = np.arange(length) + 0.5
        start, scale = self.seen[axis], self.extent[axis] / (self.seen[axis + 2] - self.seen[axis])
        inside = (centres >= self.seen[axis]) & (centres <= self.seen[axis + 2])
        # In units of pixels from the centre of the rectangle's first one.
        position = np.clip((centres - start) * scale - 0.5, 0, self.extent[axis] - 1)
        before = np.minimum(position.astype(int), max(self.extent[axis] - 2, 0))
        after = np.minimum(before + 1, self.extent[axis] - 1)
        share = (position - before).astype(np.float32)
        weights = np.zeros((length, self.size), np.float32)
        pixels = np.flatnonzero(inside)
        np.add.at(weights, (pixels, self.corner[axis] + before[pixels]), 1 - share[pixels])
        np.add.at(weights, (pixels, self.corner[axis] + after[pixels]), share[pixels])
        return weights
