"""Models as a sequence of named segments: the units that stages freeze, caches cut at and explanations look into."""

from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

import jax
from flax import nnx

from bt_jax.models.layers import Trained, draw_style_shares, mix_style
from bt_jax.ops.pairs import map_pairs


class Grid(NamedTuple):
    """The positions in a square image of the values of a square map: each is the centre of its receptive field.

    With TensorFlow's padding, every convolution with a stride shifts the receptive field right and down by half a pixel
    of its input. The shifts add up: in an EfficientNet, the values of the last map are half their distance away from
    the centres of the squares of an even division of the image.

    Attributes:
      first: distance in pixels from the edge of the image to the first value; the first pixel of an image is at 0.5.
      step: distance in pixels between neighbouring values.
      side: number of values.
    """

    first: float
    step: float
    side: int

    def convolve(self, *, kernel_size: int, stride: int, padding: tuple[int, int]) -> "Grid":
        """Returns the grid after a convolution or pooling with `padding` zeros before and after."""
        middle = (kernel_size - 1) / 2 - padding[0]
        side = (self.side + sum(padding) - kernel_size) // stride + 1
        return Grid(self.first + self.step * middle, self.step * stride, side)


class SegmentedModel(nnx.Module):
    """Segments applied in sequence. Each is an attribute, so parameter trees have the segment as first key.

    A segment is called as `segment(x, trained=..., rngs=...)`. Prefix and suffix at any cut compose to the whole:
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
        mixed: Collection[str] = (),
        by_pairs: bool = False,
    ) -> jax.Array:
        """Runs the segments from `start` up to, but not including, `stop`.

        Args:
          x: normalised images [B, H, W, 3], or the output of the segment before `start`.
          start: first segment; None: the first of the model.
          stop: the segment to end before; None: run to the end, which gives logits [B, classes] in float32.
          trained: one value for all segments, or one for each segment of the model, in order.
          dropout_key: a random key, needed if dropout is trained. What a segment draws does not depend on the others.
          mixed: segments after which the images of the batch exchange their style, see `layers.mix_style`.
          by_pairs: whether the frozen segments from `start` up that map images to images run on two images at a time,
            see `pairs.map_pairs`. They compute the same; on a CPU, they are faster and need less memory.

        Returns:
          The output of the last segment run.
        """
        names = self.segment_names
        flags = list(trained) if isinstance(trained, Sequence) else [trained] * len(names)
        first = 0 if start is None else names.index(start)
        last = len(names) if stop is None else names.index(stop)
        shares = {}
        for number in (number for number in range(first, last) if names[number] in mixed):
            if dropout_key is None:
                raise ValueError("an exchange of styles needs dropout_key")
            shares[number] = draw_style_shares(jax.random.fold_in(dropout_key, len(names) + number), len(x))

        def run(x: jax.Array, shares: Mapping[int, jax.Array], numbers: range) -> jax.Array:
            for number in numbers:
                rngs = None if dropout_key is None else nnx.Rngs(dropout=jax.random.fold_in(dropout_key, number))
                x = getattr(self, names[number])(x, trained=flags[number], rngs=rngs)
                if number in shares:
                    x = mix_style(x, shares[number])
            return x

        cut = first
        if by_pairs and len(x) > 2 and len(x) % 2 == 0:
            while cut < last and flags[cut] is False and hasattr(getattr(self, names[cut]), "compute_grid"):
                cut += 1
        if cut > first:
            below = [shares[number] for number in sorted(shares) if number < cut]
            x = map_pairs(
                lambda x, *parts: run(x, dict(zip(sorted(shares), parts, strict=False)), range(first, cut)), x, *below
            )
        return run(x, shares, range(cut, last))

    def compute_grids(self, size: int) -> tuple[Grid | None, ...]:
        """Returns the grid of the input of each segment for images of side `size`; None if the input is not a map."""
        found: list[Grid | None] = [Grid(0.5, 1.0, size)]
        for name in self.segment_names[:-1]:
            before, segment = found[-1], getattr(self, name)
            found.append(segment.compute_grid(before) if before and hasattr(segment, "compute_grid") else None)
        return tuple(found)
