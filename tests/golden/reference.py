"""The same networks by other people: timm, torchvision, Keras and efficientnet_lite_pytorch, filled with given arrays.

Needs these packages; only `make_golden.py` and the tests that are skipped without them import this.
"""

import os
from collections.abc import Mapping
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "torch")

import keras
import numpy as np
import timm
import torch
import torchvision
from keras.src.applications import efficientnet as keras_efficientnet
from timm.models.efficientnet import _gen_efficientnet

from bt_jax.models.efficientnet import VARIANTS


def timm_model(variant: str, *, classes: int, tensorflow: bool) -> torch.nn.Module:
    """timm's model for a name of our registry; `tensorflow` chooses its `tf_` style of padding and BatchNorm."""
    prefix = "tf_" if tensorflow else ""
    if variant != "efficientnet_nano":
        return timm.create_model(prefix + variant, num_classes=classes).eval()
    scaling = VARIANTS[variant]
    style = {"pad_type": "same", "bn_eps": 1e-3} if tensorflow else {}
    return _gen_efficientnet(
        "efficientnet_b0",
        channel_multiplier=scaling.width,
        depth_multiplier=scaling.depth,
        num_classes=classes,
        **style,
    ).eval()


def torchvision_vgg16(*, size: int, classes: int) -> torch.nn.Module:
    """torchvision's VGG16; for another size than 224, which it would pool to that of 224, without this pooling."""
    model = torchvision.models.vgg16(num_classes=classes, init_weights=False)
    if size != 224:
        model.avgpool = torch.nn.Identity()
        model.classifier[0] = torch.nn.Linear(512 * (size // 32) ** 2, 4096)
    return model.eval()


def fill_torch(model: torch.nn.Module, tensors: Mapping[str, np.ndarray]) -> torch.nn.Module:
    """Loads all arrays by name; the counters of batches stay."""
    counters = {key: value for key, value in model.state_dict().items() if key.endswith("num_batches_tracked")}
    model.load_state_dict({key: torch.tensor(value) for key, value in tensors.items()} | counters, strict=True)
    return model


def torch_logits(model: torch.nn.Module, images: np.ndarray) -> np.ndarray:
    """[B, H, W, 3] normalised -> [B, classes]."""
    with torch.inference_mode():
        return model(torch.tensor(images.transpose(0, 3, 1, 2))).numpy()


def keras_model(variant: str, *, classes: int) -> Any:
    """Keras's model for a name of our registry, with logits instead of probabilities."""
    scaling = VARIANTS[variant]
    return keras_efficientnet.EfficientNet(
        scaling.width,
        scaling.depth,
        scaling.size,
        name=variant,
        weights=None,
        classes=classes,
        classifier_activation=None,
    )


def keras_vgg16(*, size: int, classes: int) -> Any:
    """Keras's VGG16, with logits instead of probabilities."""
    shape = (size, size, 3)
    return keras.applications.VGG16(weights=None, input_shape=shape, classes=classes, classifier_activation=None)


def fill_keras(model: Any, tensors: Mapping[str, np.ndarray], *, mean: Any = None, variance: Any = None) -> Any:
    """Sets all arrays, named LAYER/INDEX, and the normalisation of the input where the model has one."""
    left = set(tensors)
    for layer in model.layers:
        if isinstance(layer, keras.layers.Normalization):
            layer.set_weights([np.float32(mean), np.float32(variance), np.array(0, "int32")])
        elif layer.weights:
            keys = [f"{layer.name}/{index}" for index in range(len(layer.weights))]
            layer.set_weights([tensors[key] for key in keys])
            left -= set(keys)
    if left:
        raise ValueError(f"Keras has no {sorted(left)}")
    return model


def keras_shapes(model: Any) -> dict[str, tuple[int, ...]]:
    """The shapes of all weights by LAYER/INDEX, without the normalisation of the input."""
    return {
        f"{layer.name}/{index}": tuple(weight.shape)
        for layer in model.layers
        if not isinstance(layer, keras.layers.Normalization)
        for index, weight in enumerate(layer.weights)
    }
