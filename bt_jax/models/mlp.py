"""A feed-forward network of dense layers on the pixels."""

import numpy as np

from bt_jax.models.blocks import check_channels, make_dense_segments
from bt_jax.models.segments import SegmentedModel


def mlp(
    *,
    classes: int,
    size: int,
    hidden: tuple[int, ...] = (256, 64),
    dropout_rate: float = 0.3,
    channels: int = 1,
    seed: int = 0,
) -> SegmentedModel:
    """Builds a model with random weights: segments `dense_1` ..., `head`.

    Args:
      classes: number of logits.
      size: side of the images in pixels.
      hidden: sizes of the Dense-ReLU-Dropout blocks.
      dropout_rate: of the blocks.
      channels: 1 uses one of the three equal channels of a grey image, 3 uses all.
      seed: of the initial weights.
    """
    return SegmentedModel(
        make_dense_segments(
            size * size * check_channels(channels),
            hidden=hidden,
            classes=classes,
            dropout_rate=dropout_rate,
            generator=np.random.default_rng(seed),
        )
    )
