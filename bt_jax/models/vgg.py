"""VGG16 (arXiv:1409.1556, configuration D)."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from bt_jax.common.errors import UsageError
from bt_jax.models.blocks import ConvolutionBlock, compute_pooled_size, flatten
from bt_jax.models.layers import Dense, Head, Trained, dropout
from bt_jax.models.segments import SegmentedModel

# Number of 3x3 convolutions and channels of each block of VGG16.
BLOCKS = ((2, 64), (2, 128), (3, 256), (3, 512), (3, 512))
CLASSIFIER_FEATURES = 4096
# The divisor of the numbers of channels. The second variant is not in the paper: it is for the demo and for tests.
VARIANTS = {"vgg16": 1, "vgg_nano": 8}


class Classifier(nnx.Module):
    """The classifier of the paper: flattening, two dense layers with ReLU and dropout, a linear output."""

    def __init__(self, features_in: int, classes: int, *, dropout_rate: float, generator: np.random.Generator):
        self.features_in, self.dropout_rate = features_in, dropout_rate
        self.dense_1 = Dense(features_in, CLASSIFIER_FEATURES, generator=generator)
        self.dense_2 = Dense(CLASSIFIER_FEATURES, CLASSIFIER_FEATURES, generator=generator)
        self.output = Dense(CLASSIFIER_FEATURES, classes, generator=generator)

    def __call__(self, x: jax.Array, *, trained: Trained, rngs: nnx.Rngs | None) -> jax.Array:
        """[B, H, W, C] -> logits [B, classes] in float32."""
        x = flatten(x, self.features_in)
        for dense in (self.dense_1, self.dense_2):
            x = dropout(jax.nn.relu(dense(x)), rate=self.dropout_rate, trained=trained, rngs=rngs)
        return self.output(x).astype(jnp.float32)


def vgg(
    variant: str,
    *,
    classes: int,
    size: int,
    hidden: tuple[int, ...] = (),
    dropout_rate: float = 0.5,
    classifier: bool = False,
    epsilon: float = 1e-3,
    momentum: float = 0.99,
    seed: int = 0,
) -> SegmentedModel:
    """Builds a model with random weights: segments `block1` ... `block5`, `head`.

    Args:
      variant: a key of `VARIANTS`.
      classes: number of logits.
      size: side of the images in pixels; the paper's is 224. Only `classifier` depends on it.
      hidden: sizes of the head's Dense-BatchNorm-ReLU-Dropout blocks after global average pooling.
      dropout_rate: of the head.
      classifier: whether to use the paper's classifier, two layers of 4096 on the flattened map, as in other libraries.
      epsilon: of the head's BatchNorm.
      momentum: of the head's BatchNorm, the weight of the old running value.
      seed: of the initial weights.

    Raises:
      UsageError: the images are too small for five poolings, or both `hidden` and `classifier` are set.
    """
    generator = np.random.default_rng(seed)
    left = compute_pooled_size(size, times=len(BLOCKS), name=variant)
    if classifier and hidden:
        raise UsageError(
            f"config.model.classifier has hidden layers of its own: set config.model.hidden to (), not {hidden}"
        )
    segments: dict[str, nnx.Module] = {}
    channels = 3
    for number, (convolutions, of_vgg16) in enumerate(BLOCKS, start=1):
        channels_out = of_vgg16 // VARIANTS[variant]
        segments[f"block{number}"] = ConvolutionBlock(
            channels, channels_out, convolutions=convolutions, generator=generator
        )
        channels = channels_out
    if classifier:
        segments["head"] = Classifier(left * left * channels, classes, dropout_rate=dropout_rate, generator=generator)
    else:
        segments["head"] = Head(
            channels,
            classes,
            hidden=hidden,
            dropout_rate=dropout_rate,
            epsilon=epsilon,
            momentum=momentum,
            generator=generator,
        )
    return SegmentedModel(segments)
