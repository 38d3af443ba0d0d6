"""Models as a row of named segments: what stages freeze, caches cut at, and explanations look into."""

from collections.abc import Mapping, Sequence

import jax
from flax import nnx

from bt_jax.models.layers import Trained


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
