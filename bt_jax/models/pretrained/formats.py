"""All formats of files of weights that are read."""

from collections.abc import Mapping

import numpy as np

from bt_jax.models.pretrained import efficientnet_names, names, vgg_names
from bt_jax.models.pretrained.names import Format

FORMATS = (*efficientnet_names.FORMATS, *vgg_names.FORMATS)


def of(model: str) -> tuple[Format, ...]:
    """The formats that a model's weights are published in; none where nothing is published."""
    return tuple(form for form in FORMATS if model.startswith(form.family))


def detect(tensors: Mapping[str, np.ndarray], model: str) -> Format | None:
    """The format of a model's files that names its arrays so."""
    return next((form for form in of(model) if form.marker in tensors), None)


def with_layer_names(tensors: Mapping[str, np.ndarray], model: str) -> Mapping[str, np.ndarray]:
    """The arrays by layer name, if they are of a Keras file that has only classes and numbers."""
    for form in of(model):
        tensors = names.with_layer_names(tensors, model, form)
    return tensors


def looks_like(tensors: Mapping[str, np.ndarray]) -> str | None:
    """The model that a file holds, if it can be told."""
    return efficientnet_names.looks_like(tensors) or vgg_names.looks_like(tensors)


def in_words(model: str) -> str:
    """The names of a model's formats."""
    return ", ".join(form.name for form in of(model))
