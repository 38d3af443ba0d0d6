"""A small convolutional network: convolutions with max pooling, flattening, dense layers, dropout after each."""

import numpy as np
from flax import nnx

from bt_jax.models.blocks import ConvolutionBlock, check_channels, compute_pooled_size, make_dense_segments
from bt_jax.models.segments import SegmentedModel


def cnn(
    *,
    classes: int,
    size: int,
    filters: tuple[int, ...] = (16, 32, 64),
    hidden: tuple[int, ...] = (64,),
    dropout_rate: float = 0.3,
    channels: int = 1,
    seed: int = 0,
) -> SegmentedModel:
    """Builds a model with random weights: segments `conv_1` ..., `dense_1` ..., `head`.

    Args:
      classes: number of logits.
      size: side of the images in pixels.
      filters: channels of each block of 3x3 convolution, ReLU, 2x2 max pooling and dropout.
      hidden: sizes of the Dense-ReLU-Dropout blocks.
      dropout_rate: rate of all blocks.
      channels: 1 uses one of the three equal channels of a grey image, 3 uses all.
      seed: of the initial weights.

    Raises:
      UsageError: the images are too small for the poolings.
    """
    generator = np.random.default_rng(seed)
    left = compute_pooled_size(size, times=len(filters), name="cnn")
    segments: dict[str, nnx.Module] = {}
    channels = check_channels(channels)
    for i, channels_out in enumerate(filters, start=1):
        segments[f"conv_{i}"] = ConvolutionBlock(channels, channels_out, dropout_rate=dropout_rate, generator=generator)
        channels = channels_out
    return SegmentedModel(
        segments
        | make_dense_segments(
            left * left * channels, hidden=hidden, classes=classes, dropout_rate=dropout_rate, generator=generator
        )
    )
