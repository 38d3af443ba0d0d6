"""What Keras, timm and the EfficientNet-PyTorch ports call an EfficientNet's parameters, and how they lay them out.

One table serves both directions. Ours are [K, K, in, out] for a convolution, [K, K, C] for a depthwise one, [in, out]
for a dense layer.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
from flax import traverse_util

from bt_jax.models import efficientnet

# The way to an array in the trees of parameters and statistics, such as ("stem", "conv", "kernel").
Key = tuple[str, ...]


class Format(NamedTuple):
    """A naming of layers and of the arrays in a layer."""

    name: str
    marker: str  # a key that only files of this format have
    stem: tuple[str, str]  # convolution and BatchNorm
    top: tuple[str, str]
    classifier: str
    block: Mapping[str, str]  # our layer of a block -> theirs
    variables: Mapping[str, str]  # our array of a layer -> theirs
    ignored: str  # pattern of keys that no network of ours needs
    torch: bool  # kernels laid out as PyTorch's


_TORCH_VARIABLES = {
    "kernel": "weight",
    "scale": "weight",
    "bias": "bias",
    "mean": "running_mean",
    "variance": "running_var",
}
_TORCH_IGNORED = r".*\.num_batches_tracked"

KERAS = Format(
    name="Keras",
    marker="stem_conv/0",
    stem=("stem_conv", "stem_bn"),
    top=("top_conv", "top_bn"),
    classifier="predictions",
    block={
        "expand": "expand_conv",
        "expand_norm": "expand_bn",
        "depthwise": "dwconv",
        "depthwise_norm": "bn",
        "squeeze_excite.reduce": "se_reduce",
        "squeeze_excite.expand": "se_expand",
        "project": "project_conv",
        "project_norm": "project_bn",
    },
    variables={"kernel": "0", "scale": "0", "bias": "1", "mean": "2", "variance": "3"},
    ignored=r"normalization(_\d+)?/\d",  # of the input
    torch=False,
)
TIMM = Format(
    name="timm",
    marker="conv_stem.weight",
    stem=("conv_stem", "bn1"),
    top=("conv_head", "bn2"),
    classifier="classifier",
    block={
        "expand": "conv_pw",
        "expand_norm": "bn1",
        "depthwise": "conv_dw",
        "depthwise_norm": "bn2",
        "squeeze_excite.reduce": "se.conv_reduce",
        "squeeze_excite.expand": "se.conv_expand",
        "project": "conv_pwl",
        "project_norm": "bn3",
    },
    variables=_TORCH_VARIABLES,
    ignored=_TORCH_IGNORED,
    torch=True,
)
# The naming of the packages efficientnet_pytorch and efficientnet_lite_pytorch.
PORT = Format(
    name="EfficientNet-PyTorch",
    marker="_conv_stem.weight",
    stem=("_conv_stem", "_bn0"),
    top=("_conv_head", "_bn1"),
    classifier="_fc",
    block={
        "expand": "_expand_conv",
        "expand_norm": "_bn0",
        "depthwise": "_depthwise_conv",
        "depthwise_norm": "_bn1",
        "squeeze_excite.reduce": "_se_reduce",
        "squeeze_excite.expand": "_se_expand",
        "project": "_project_conv",
        "project_norm": "_bn2",
    },
    variables=_TORCH_VARIABLES,
    ignored=_TORCH_IGNORED,
    torch=True,
)
FORMATS = (KERAS, TIMM, PORT)
# timm's block without expansion is a class of its own, which counts its layers without it.
_TIMM_FIRST = {**TIMM.block, "depthwise_norm": "bn1", "project": "conv_pw", "project_norm": "bn2"}

# Keras 3 before layer names were stored: class names as they stand in the file, by our kind of layer.
_KERAS_CLASSES = {"conv2d": 0, "depthwise_conv2d": 0, "batch_normalization": 0, "dense": 0}


def layers(variant: str, form: Format) -> dict[Key, str]:
    """The layers of a model in the order in which they are applied: ours -> theirs.

    Args:
      variant: a key of `efficientnet.VARIANTS`.
      form: one of `FORMATS`.
    """
    scaling = efficientnet.VARIANTS[variant]
    table: dict[Key, str] = {("stem", "conv"): form.stem[0], ("stem", "norm"): form.stem[1]}
    number = 0
    for group, repeats in enumerate(efficientnet.group_repeats(scaling)):
        expanded = efficientnet.GROUPS[group].expansion != 1
        for repeat in range(repeats):
            for ours, theirs in form.block.items():
                if (ours.startswith("expand") and not expanded) or (ours.startswith("squeeze") and scaling.lite):
                    continue
                if form is TIMM and not expanded:
                    theirs = _TIMM_FIRST[ours]
                prefix = {
                    KERAS.name: f"block{group + 1}{chr(ord('a') + repeat)}_",
                    TIMM.name: f"blocks.{group}.{repeat}.",
                    PORT.name: f"_blocks.{number}.",
                }[form.name]
                table[(f"block_{number + 1:02d}", *ours.split("."))] = prefix + theirs
            number += 1
    return table | {
        ("top", "conv"): form.top[0],
        ("top", "norm"): form.top[1],
        ("head", "output"): form.classifier,
    }


def keys(variant: str, form: Format, arrays: Iterable[Key]) -> dict[Key, str]:
    """Their name for each of our arrays. Arrays that the format has no name for are left out."""
    table = layers(variant, form)
    separator = "." if form.torch else "/"
    return {
        key: f"{table[key[:-1]]}{separator}{form.variables[key[-1]]}"
        for key in arrays
        if key[:-1] in table and key[-1] in form.variables
    }


def is_ignored(key: str, form: Format) -> bool:
    """Whether the array is of no use to any network of ours, such as a counter of batches."""
    return re.fullmatch(form.ignored, key) is not None


def is_classifier(key: str, form: Format) -> bool:
    """Whether the array belongs to the last layer."""
    return re.match(re.escape(form.classifier) + r"[./]", key) is not None


def to_theirs(array: np.ndarray, key: Key, form: Format) -> np.ndarray:
    """One of our arrays as the format lays it out."""
    if "depthwise" in key and array.ndim == 3:
        array = array[..., None]  # [K, K, C, 1]
        return array.transpose(2, 3, 0, 1) if form.torch else array
    if form.torch and array.ndim == 4:
        return array.transpose(3, 2, 0, 1)  # [out, in, K, K]
    return array.T if form.torch else array


def to_ours(array: np.ndarray, key: Key, form: Format) -> np.ndarray:
    """The inverse of `to_theirs`."""
    if "depthwise" in key and array.ndim == 4:
        return (array.transpose(2, 3, 0, 1) if form.torch else array)[..., 0]
    if form.torch and array.ndim == 4:
        return array.transpose(2, 3, 1, 0)
    return array.T if form.torch else array


def detect(tensors: Mapping[str, Any]) -> Format | None:
    """The format that names its arrays so, if it is one of `FORMATS`."""
    return next((form for form in FORMATS if form.marker in tensors), None)


def to_timm(variant: str, params: Mapping[str, Any], batch_stats: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Our trees as timm's state_dict, without the counters of batches.

    Raises:
      ValueError: if the head has hidden layers, which timm has not.
    """
    return renamed(variant, params, batch_stats, TIMM)


def renamed(
    variant: str, params: Mapping[str, Any], batch_stats: Mapping[str, Any], form: Format
) -> dict[str, np.ndarray]:
    """Our trees, flat, by the format's names and in its layout.

    Raises:
      ValueError: if the head has hidden layers, which the format has no name for.
    """
    arrays = traverse_util.flatten_dict(dict(params)) | traverse_util.flatten_dict(dict(batch_stats))
    table = keys(variant, form, arrays)
    if unnamed := arrays.keys() - table.keys():
        raise ValueError(f"{form.name} has no name for {sorted(unnamed)}")
    return {theirs: to_theirs(np.asarray(arrays[ours]), ours, form) for ours, theirs in table.items()}


def with_layer_names(tensors: Mapping[str, np.ndarray], variant: str) -> dict[str, np.ndarray]:
    """Keras arrays by layer name, where the file has only classes and numbers.

    The numbers count the layers of a class in the order of the model, which is known for `variant`.
    """
    classes = {"conv": "conv2d", "reduce": "conv2d", "expand": "conv2d", "project": "conv2d"}
    classes |= {"depthwise": "depthwise_conv2d", "output": "dense"}
    counts = dict(_KERAS_CLASSES)
    table = {}
    for ours, theirs in layers(variant, KERAS).items():
        kind = classes.get(ours[-1], "batch_normalization")
        table[f"{kind}_{counts[kind]}" if counts[kind] else kind] = theirs
        counts[kind] += 1
    named = {}
    for key, array in tensors.items():
        layer, _, index = key.partition("/")
        named[f"{table.get(layer, layer)}/{index}"] = array
    return named


def looks_like(tensors: Mapping[str, np.ndarray]) -> str | None:
    """The member of the family that the depthwise kernels and squeeze-and-excite layers in a file belong to, if any."""
    patterns = r"block\w+_dwconv/0|depthwise_conv2d(_\d+)?/0|_?blocks\.[\d.]+(conv_dw|_depthwise_conv)\.weight"
    found = [key for key in tensors if re.fullmatch(patterns, key)]
    found.sort(key=lambda key: [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", key)])
    channels = [tensors[key].shape[0 if key.endswith("weight") else 2] for key in found if tensors[key].ndim == 4]
    # Keras has no Lite models, so files that give only classes and numbers always have squeeze-and-excite layers.
    lite = not any(re.search(r"se_reduce|se\.conv_reduce|conv2d_1", key) for key in tensors)
    for variant, scaling in efficientnet.VARIANTS.items():
        if scaling.lite == lite and depthwise_channels(variant) == channels:
            return variant
    return None


def depthwise_channels(variant: str) -> list[int]:
    """The number of channels of each block's depthwise convolution."""
    scaling = efficientnet.VARIANTS[variant]
    width = 1.0 if scaling.lite else scaling.width
    channels, inner = efficientnet.scaled_channels(efficientnet.STEM_CHANNELS, width), []
    for group, repeats in zip(efficientnet.GROUPS, efficientnet.group_repeats(scaling), strict=True):
        for _ in range(repeats):
            inner.append(channels * group.expansion)
            channels = efficientnet.scaled_channels(group.channels, scaling.width)
    return inner
