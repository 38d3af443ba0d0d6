"""The conventions of a file of weights: the normalisation of the input, padding, and the constants of BatchNorm.

The tensors do not show them. The rules:

| file | normalisation | padding, epsilon, momentum |
|---|---|---|
| EfficientNet: Keras | its own layers (`infer_keras`) | same, 1e-3, .99 |
| EfficientNet-PyTorch names; timm, called `tf_` | ImageNet's; Lite: (x - 127) / 128 | same, 1e-3, .99 |
| other timm | ImageNet's | symmetric, 1e-5, .9 |
| VGG16: Keras | `CAFFE` | none of them in the network |
| VGG16: torchvision; called `amdegroot` | ImageNet's; `CAFFE`'s in the order RGB | likewise |

AdvProp (`ap`, `adv`, `advprop` in the name) and timm's `ra4_e3600` models were trained on inputs from -1 to 1. "Called"
refers to the file's name or, if a `config.json` of timm lies beside it, to the architecture in it, whose mean and
standard deviation are then used too (but not for the Lite models, where 0.5 is an approximation). Strings in the header
of a safetensors file (`mean`, `std`, `padding`, `epsilon`, `momentum`, as JSON) override everything.
"""

import dataclasses
import json
import pathlib
import re
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from bt_jax.common.errors import UsageError
from bt_jax.models.layers import PADDINGS
from bt_jax.models.normalise import IMAGENET, LITE, Normalisation
from bt_jax.models.pretrained import efficientnet_names, vgg_names
from bt_jax.models.pretrained.names import Format

TENSORFLOW: dict[str, Any] = {"padding": "same", "epsilon": 1e-3, "momentum": 0.99}
PYTORCH: dict[str, Any] = {"padding": "symmetric", "epsilon": 1e-5, "momentum": 0.9}
# Inputs from -1 to 1: adversarial propagation (arXiv:1911.09665) and timm's recipe `ra4_e3600`.
SYMMETRIC = Normalisation(mean=(0.5,) * 3, std=(0.5,) * 3)
# Blue, green, red from 0 to 255, minus ImageNet's means: networks trained in Caffe.
CAFFE = Normalisation(mean=(103.939 / 255, 116.779 / 255, 123.68 / 255), std=(1 / 255,) * 3)
# torchvision.models.VGG16_Weights.IMAGENET1K_FEATURES: the same network, with its first kernels reordered to RGB.
_AMDEGROOT = Normalisation(mean=(0.48235, 0.45882, 0.40784), std=(1 / 255,) * 3)
_SYMMETRIC_NAMES = r"(?<![a-z0-9])(ap|adv|advprop|ra4_e3600)(?![a-z0-9])"
_KERAS_EPSILON = 1e-7  # keras.layers.Normalization divides by at least this much


@dataclasses.dataclass(frozen=True)
class Conventions:
    """The normalisation of the input, the options of the model's constructor, and a notice if they are uncertain."""

    normalisation: Normalisation
    options: Mapping[str, Any]
    notice: str | None = None


def infer_keras_vgg(path: pathlib.Path, *, official: bool) -> Conventions:
    """Returns the conventions of a Keras file of VGG16, which holds only the layers.

    Args:
      path: of the file.
      official: whether this is one of the published files.
    """
    notice = f"{path.name} does not state the scaling of its inputs: assuming that of keras.applications.vgg16"
    return Conventions(CAFFE, {}, None if official else notice)


def infer_keras(
    tensors: Mapping[str, np.ndarray], layers: Iterable[str], path: pathlib.Path, *, official: bool
) -> Conventions:
    """Reads the conventions of a Keras file of an EfficientNet.

    Keras scales inside the model: x / 255, then (x - mean) / sqrt(variance) with both in the file. In the published
    ImageNet files `variance` holds standard deviations, so Keras adds a second `Rescaling` by 1 / sqrt(deviation)
    when it loads them as "imagenet" (tensorflow #49930). Models saved after that have two `Rescaling` layers.

    Args:
      tensors: of `keras_file.read`.
      layers: of `keras_file.layer_names`.
      path: of the file, for error messages.
      official: whether this is one of the published files, which were saved before the second `Rescaling` came.
    """
    prefixes = [match[1] for key in tensors if (match := re.fullmatch(r"(normalization(?:_\d+)?)/0", key))]
    if not prefixes:
        notice = "the Keras file has no Normalization layer: assuming ImageNet's mean and standard deviation"
        return Conventions(IMAGENET, TENSORFLOW, notice)
    mean, variance = (np.asarray(tensors.get(f"{prefixes[0]}/{index}", ()), np.float64).ravel() for index in (0, 1))
    if len(prefixes) > 1 or mean.size != 3 or variance.size != 3 or not (variance >= 0).all():
        raise UsageError(f"{path}: needs one Normalization layer of 3 channels, as the EfficientNets of Keras have")
    std = np.maximum(np.sqrt(variance), _KERAS_EPSILON)
    if official or sum(re.fullmatch(r"rescaling(_\d+)?", layer) is not None for layer in layers) > 1:
        std *= np.sqrt(IMAGENET.std)
    return Conventions(_check_normalisation(mean, std, path), TENSORFLOW)


def infer_torch(form: Format, path: pathlib.Path, *, model: str) -> Conventions:
    """Infers the conventions of a file with PyTorch names by the rules above.

    Args:
      form: a format of `efficientnet_names` or `vgg_names`, except Keras.
      path: of the file.
      model: the name in the registry.
    """
    config = _read_timm_config(path)
    called = f"{path.name} {config.get('architecture', '')} {config.get('pretrained_cfg', {}).get('tag', '')}".lower()
    if form is vgg_names.TORCHVISION:
        normalisation = _AMDEGROOT if "amdegroot" in called else IMAGENET
        return Conventions(_read_normalisation(config, path) or normalisation, {})
    tensorflow = form is efficientnet_names.PORT or re.search(r"(?<![a-z0-9])tf_", called) is not None
    if tensorflow and model.startswith("efficientnet_lite"):
        return Conventions(LITE, TENSORFLOW)
    normalisation = SYMMETRIC if re.search(_SYMMETRIC_NAMES, called) else IMAGENET
    normalisation = _read_normalisation(config, path) or normalisation
    notice = None
    if form is efficientnet_names.TIMM and "efficientnet" not in called:
        notice = (
            f"{path.name} does not state which timm model it is: assuming symmetric padding and epsilon 1e-5; "
            f"if it is a tf_ model, rename it to tf_{model}{path.suffix}"
        )
    return Conventions(normalisation, TENSORFLOW if tensorflow else PYTORCH, notice)


def override(conventions: Conventions, metadata: Mapping[str, str], path: pathlib.Path) -> Conventions:
    """Overrides conventions with the values in the header of a safetensors file.

    Raises:
      UsageError: a value there is invalid.
    """
    try:
        said = {key: json.loads(metadata[key]) for key in ("mean", "std", "epsilon", "momentum") if key in metadata}
        mean, std = said.pop("mean", conventions.normalisation.mean), said.pop("std", conventions.normalisation.std)
        options = dict(conventions.options) | {key: float(value) for key, value in said.items()}
        if padding := metadata.get("padding", options.get("padding", "")).strip('"'):
            options["padding"] = padding
            if padding not in PADDINGS:
                raise ValueError(f"padding is {padding!r}, not one of {', '.join(PADDINGS)}")
        explicit = {"padding", "epsilon", "mean", "std"} <= metadata.keys()
        return Conventions(_check_normalisation(mean, std, path), options, None if explicit else conventions.notice)
    except (ValueError, TypeError) as error:
        raise UsageError(f"{path}: the metadata in its header is invalid ({error}); remove or correct it") from error


def _read_timm_config(path: pathlib.Path) -> dict[str, Any]:
    """Reads the `config.json` beside the weights of timm's published models; empty if there is none."""
    file = path.with_name("config.json")
    try:
        content = json.loads(file.read_bytes()) if file.is_file() else {}
    except (OSError, ValueError) as error:
        raise UsageError(f"{file}: not readable as JSON ({error}); correct or remove it") from error
    if not isinstance(content, dict) or "architecture" not in content:
        return {}  # of something else
    settings = content.get("pretrained_cfg")
    return {"architecture": content["architecture"], "pretrained_cfg": settings if isinstance(settings, dict) else {}}


def _read_normalisation(config: Mapping[str, Any], where: pathlib.Path) -> Normalisation | None:
    settings = config.get("pretrained_cfg", {})
    return (
        _check_normalisation(settings["mean"], settings["std"], where) if {"mean", "std"} <= settings.keys() else None
    )


def _check_normalisation(mean: Iterable[float], std: Iterable[float], where: pathlib.Path) -> Normalisation:
    try:
        means, deviations = ([float(value) for value in values] for values in (mean, std))
    except (TypeError, ValueError):
        means, deviations = [], []
    if len(means) != 3 or len(deviations) != 3 or not np.isfinite(means + deviations).all() or min(deviations) <= 0:
        raise UsageError(f"{where}: mean {mean} and standard deviation {std} are not numbers for three channels")
    return Normalisation(mean=(means[0], means[1], means[2]), std=(deviations[0], deviations[1], deviations[2]))
