"""The names of an EfficientNet's parameters in Keras, timm and the EfficientNet-PyTorch ports."""

import functools
import re
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

from bt_jax.models import efficientnet
from bt_jax.models.pretrained import names
from bt_jax.models.pretrained.names import Format, Key


class _Naming(NamedTuple):
    """A naming of an EfficientNet's layers."""

    stem: tuple[str, str]  # convolution and BatchNorm
    top: tuple[str, str]
    classifier: str
    prefix: Callable[[int, int, int], str]  # (group, repeat in it, number of the block), from 0
    block: Mapping[str, str]  # our layer of a block -> theirs
    first_block: Mapping[str, str]  # likewise, where a block has no expansion


def _map_layers(variant: str, naming: _Naming) -> dict[Key, str]:
    scaling = efficientnet.VARIANTS[variant]
    table: dict[Key, str] = {("stem", "conv"): naming.stem[0], ("stem", "norm"): naming.stem[1]}
    number = 0
    for group, repeats in enumerate(efficientnet.scale_repeats(scaling)):
        expanded = efficientnet.GROUPS[group].expansion != 1
        for repeat in range(repeats):
            for ours, theirs in (naming.block if expanded else naming.first_block).items():
                if (ours.startswith("expand") and not expanded) or (ours.startswith("squeeze") and scaling.lite):
                    continue
                table[(f"block_{number + 1:02d}", *ours.split("."))] = naming.prefix(group, repeat, number) + theirs
            number += 1
    return table | {
        ("top", "conv"): naming.top[0],
        ("top", "norm"): naming.top[1],
        ("head", "output"): naming.classifier,
    }


_TORCH_IGNORED = r".*\.num_batches_tracked"
_KERAS_BLOCK = {
    "expand": "expand_conv",
    "expand_norm": "expand_bn",
    "depthwise": "dwconv",
    "depthwise_norm": "bn",
    "squeeze_excite.reduce": "se_reduce",
    "squeeze_excite.expand": "se_expand",
    "project": "project_conv",
    "project_norm": "project_bn",
}
_TIMM_BLOCK = {
    "expand": "conv_pw",
    "expand_norm": "bn1",
    "depthwise": "conv_dw",
    "depthwise_norm": "bn2",
    "squeeze_excite.reduce": "se.conv_reduce",
    "squeeze_excite.expand": "se.conv_expand",
    "project": "conv_pwl",
    "project_norm": "bn3",
}
# timm's block without expansion is a separate class, which numbers its layers differently.
_TIMM_FIRST_BLOCK = {**_TIMM_BLOCK, "depthwise_norm": "bn1", "project": "conv_pw", "project_norm": "bn2"}
_PORT_BLOCK = {
    "expand": "_expand_conv",
    "expand_norm": "_bn0",
    "depthwise": "_depthwise_conv",
    "depthwise_norm": "_bn1",
    "squeeze_excite.reduce": "_se_reduce",
    "squeeze_excite.expand": "_se_expand",
    "project": "_project_conv",
    "project_norm": "_bn2",
}
_KERAS_CLASSES = {
    "conv": "conv2d",
    "reduce": "conv2d",
    "expand": "conv2d",
    "project": "conv2d",
    "depthwise": "depthwise_conv2d",
    "output": "dense",
}

_KERAS = _Naming(
    stem=("stem_conv", "stem_bn"),
    top=("top_conv", "top_bn"),
    classifier="predictions",
    prefix=lambda group, repeat, _: f"block{group + 1}{chr(ord('a') + repeat)}_",
    block=_KERAS_BLOCK,
    first_block=_KERAS_BLOCK,
)
_TIMM = _Naming(
    stem=("conv_stem", "bn1"),
    top=("conv_head", "bn2"),
    classifier="classifier",
    prefix=lambda group, repeat, _: f"blocks.{group}.{repeat}.",
    block=_TIMM_BLOCK,
    first_block=_TIMM_FIRST_BLOCK,
)
_PORT = _Naming(
    stem=("_conv_stem", "_bn0"),
    top=("_conv_head", "_bn1"),
    classifier="_fc",
    prefix=lambda _, __, number: f"_blocks.{number}.",
    block=_PORT_BLOCK,
    first_block=_PORT_BLOCK,
)

KERAS = Format(
    name="Keras",
    family="efficientnet",
    marker="stem_conv/0",
    layers=functools.partial(_map_layers, naming=_KERAS),
    variables=names.KERAS_VARIABLES,
    classifier="predictions",
    ignored=r"normalization(_\d+)?/\d",  # of the input
    torch=False,
    keras_class=lambda layer: _KERAS_CLASSES.get(layer[-1], "batch_normalization"),
)
TIMM = Format(
    name="timm",
    family="efficientnet",
    marker="conv_stem.weight",
    layers=functools.partial(_map_layers, naming=_TIMM),
    variables=names.TORCH_VARIABLES,
    classifier="classifier",
    ignored=_TORCH_IGNORED,
    torch=True,
)
# The naming of the packages efficientnet_pytorch and efficientnet_lite_pytorch.
PORT = Format(
    name="EfficientNet-PyTorch",
    family="efficientnet",
    marker="_conv_stem.weight",
    layers=functools.partial(_map_layers, naming=_PORT),
    variables=names.TORCH_VARIABLES,
    classifier="_fc",
    ignored=_TORCH_IGNORED,
    torch=True,
)
FORMATS = (KERAS, TIMM, PORT)


def guess_model(tensors: Mapping[str, np.ndarray]) -> str | None:
    """Returns the variant whose depthwise kernels and squeeze-and-excite layers are in a file, if any."""
    patterns = r"block\w+_dwconv/0|depthwise_conv2d(_\d+)?/0|_?blocks\.[\d.]+(conv_dw|_depthwise_conv)\.weight"
    found = [key for key in tensors if re.fullmatch(patterns, key)]
    found.sort(key=lambda key: [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", key)])
    channels = [tensors[key].shape[0 if key.endswith("weight") else 2] for key in found if tensors[key].ndim == 4]
    # Keras has no Lite models, so files with only class names and numbers always have squeeze-and-excite layers.
    lite = not any(re.search(r"se_reduce|se\.conv_reduce|conv2d_1", key) for key in tensors)
    for variant, scaling in efficientnet.VARIANTS.items():
        if scaling.lite == lite and list_depthwise_channels(variant) == channels:
            return variant
    return None


def list_depthwise_channels(variant: str) -> list[int]:
    """Returns the number of channels of each block's depthwise convolution."""
    scaling = efficientnet.VARIANTS[variant]
    width = 1.0 if scaling.lite else scaling.width
    channels, inner = efficientnet.scale_channels(efficientnet.STEM_CHANNELS, width), []
    for group, repeats in zip(efficientnet.GROUPS, efficientnet.scale_repeats(scaling), strict=True):
        for _ in range(repeats):
            inner.append(channels * group.expansion)
            channels = efficientnet.scale_channels(group.channels, scaling.width)
    return inner
