"""Where an image's pixels lie in the square that the networks see, and the way back."""

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class Letterbox:
    """A rectangle of an image, resized to whole pixels somewhere in a black square.

    Points are (x, y), counted from the upper left corner, so that the first pixel's centre is (0.5, 0.5).

    Attributes:
      frame: width and height of the image in pixels.
      seen: the rectangle of the image: left, top, right, bottom in its pixels, not always whole.
      corner: where the rectangle's upper left corner lies in the square, in whole pixels.
      extent: width and height of what it became in the square, in whole pixels.
      size: side of the square.
    """

    frame: tuple[int, int]
    seen: tuple[float, float, float, float]
    corner: tuple[int, int]
    extent: tuple[int, int]
    size: int

    def map_to_image(self, values: np.ndarray) -> np.ndarray:
        """What was found in the square, on the pixels of the image.

        Each of the image's pixels has the value at the place of its centre, bilinear between the centres of the
        square's pixels and never from the black around the rectangle. What the network did not see has 0.

        Args:
          values: [size, size] floats.

        Returns:
          [H, W] float32.
        """
        rows, columns = (self._weights(axis) for axis in (1, 0))
        return (rows @ np.asarray(values, np.float32) @ columns.T).astype(np.float32)

    def _weights(self, axis: int) -> np.ndarray:
        """How the pixels along an axis of the image (0: x, 1: y) are mixed from those of the square: [length, size]."""
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
