"""The names of VGG16's parameters in Keras and torchvision."""

import re
from collections.abc import Mapping

import numpy as np

from bt_jax.models import vgg
from bt_jax.models.pretrained import names
from bt_jax.models.pretrained.names import Format, Key


def _map_keras_layers(model: str) -> dict[Key, str]:
    del model
    convolutions: dict[Key, str] = {
        (f"block{block}", f"conv_{i}"): f"block{block}_conv{i}"
        for block, (count, _) in enumerate(vgg.BLOCKS, start=1)
        for i in range(1, count + 1)
    }
    return convolutions | {
        ("head", "dense_1"): "fc1",
        ("head", "dense_2"): "fc2",
        ("head", "output"): "predictions",
    }


def _map_torchvision_layers(model: str) -> dict[Key, str]:
    del model
    table: dict[Key, str] = {}
    number = 0  # index in the sequence of convolutions, each with a ReLU, and a pooling after each block
    for block, (count, _) in enumerate(vgg.BLOCKS, start=1):
        for i in range(1, count + 1):
            table[f"block{block}", f"conv_{i}"] = f"features.{number}"
            number += 2
        number += 1
    return table | {
        ("head", "dense_1"): "classifier.0",
        ("head", "dense_2"): "classifier.3",
        ("head", "output"): "classifier.6",
    }


KERAS = Format(
    name="Keras",
    family="vgg16",
    marker="block1_conv1/0",
    layers=_map_keras_layers,
    variables=names.KERAS_VARIABLES,
    classifier="fc1|fc2|predictions",
    ignored=r"",
    torch=False,
    keras_class=lambda layer: "conv2d" if layer[-1].startswith("conv") else "dense",
)
TORCHVISION = Format(
    name="torchvision",
    family="vgg16",
    marker="features.0.weight",
    layers=_map_torchvision_layers,
    variables=names.TORCH_VARIABLES,
    classifier="classifier|pre_logits|head",  # the last two are timm's, whose other names are the same
    ignored=r"",
    torch=True,
    flattened={("head", "dense_1", "kernel"): vgg.BLOCKS[-1][1]},
)
FORMATS = (KERAS, TORCHVISION)


def guess_model(tensors: Mapping[str, np.ndarray]) -> str | None:
    """Returns `vgg16` if the convolution kernels in a file have its numbers of channels."""
    expected = [channels for count, channels in vgg.BLOCKS for _ in range(count)]
    for pattern, axis in ((r"block\d_conv\d/0", -1), (r"features\.\d+\.weight", 0)):
        found = [array.shape[axis] for key, array in tensors.items() if re.fullmatch(pattern, key) and array.ndim == 4]
        if sorted(found) == expected:
            return "vgg16"
    return None
