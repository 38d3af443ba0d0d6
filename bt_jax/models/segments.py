"""Models as a row of named segments: what stages freeze, caches cut at, and explanations look into."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
from flax import nnx

from bt_jax.models.layers import Trained


class Grid(NamedTuple):
    """Where in a square image the values of a square map lie: each at the middle of what it sees.

    With TensorFlow's padding every convolution with a stride looks half a pixel of its input further to the right and
    down, which adds up: in an EfficientNet the values of the last map lie half their distance away from the middle of
    the squares that the map would be divided into.

    Attributes:
      first: pixels from the edge of the image to the place of the first value; an image's own first pixel is at 0.5.
      step: pixels from a value to the next.
      side: number of values.
    """

    first: float
    step: float
    side: int

    def convolve(self, *, kernel_size: int, stride: int, padding: tuple[int, int]) -> "Grid":
        """The grid of what a convolution or pooling with so many zeros before and after makes of this one."""
        middle = (kernel_size - 1) / 2 - padding[0]
        side = (self.side + sum(padding) - kernel_size) // stride + 1
        return Grid(self.first + self.step * middle, self.step * stride, side)


class SegmentedModel(nnx.Module):
    """Segments applied one after the other. Each is an attribute, so parameter trees have the segment as first key.

    A segment is called as `segment(x, trained=..., rngs=...)`. Cut anywhere, prefix and suffix compose to the whole:
    `model(model(x, stop="top"), start="top")` equals `model(x)`.
    """

    def __init__(self, segments: Mapping[str, nnx.Module]):
        self.segment_names = tuple(segments)
        for name, segment in segments.items():
            setattr(self, name, segment)

    def __call__(
        self,
        x: jax.Array,
        *,
        start: str | None = None,
        stop: str | None = None,
        trained: Trained | Sequence[Trained] = False,
        dropout_key: jax.Array | None = None,
    ) -> jax.Array:
        """Runs the segments from `start` up to, without, `stop`.

        Args:
          x: normalised images [B, H, W, 3], or what the segment before `start` returned.
          start: first segment; None is the first of the model.
          stop: the segment to end before; None runs to the end, which gives logits [B, classes] in float32.
          trained: one value for all segments, or one for each segment of the model, in order.
          dropout_key: a random key, needed where dropout is trained. A segment draws the same whatever the others do.

        Returns:
          The output of the last segment run.
        """
        names = self.segment_names
        flags = list(trained) if isinstance(trained, Sequence) else [trained] * len(names)
        first = 0 if start is None else names.index(start)
        last = len(names) if stop is None else names.index(stop)
        for number in range(first, last):
            rngs = None if dropout_key is None else nnx.Rngs(dropout=jax.random.fold_in(dropout_key, number))
            x = getattr(self, names[number])(x, trained=flags[number], rngs=rngs)
        return x

    def compute_grids(self, size: int) -> tuple[Grid | None, ...]:
        """Where the values that go into each segment lie in images of a side of `size`; None where they form no map."""
        found: list[Grid | None] = [Grid(0.5, 1.0, size)]
        for name in self.segment_names[:-1]:
            before, segment = found[-1], getattr(self, name)
            found.append(segment.compute_grid(before) if before and hasattr(segment, "compute_grid") else None)
        return tuple(found)
