"""All formats of files of weights that are read."""

from collections.abc import Mapping

import numpy as np

from bt_jax.models.pretrained import efficientnet_names, names, vgg_names
from bt_jax.models.pretrained.names import Format

FORMATS = (*efficientnet_names.FORMATS, *vgg_names.FORMATS)


def get_formats(model: str) -> tuple[Format, ...]:
    """The formats that a model's weights are published in; none where nothing is published."""
    return tuple(form for form in FORMATS if model.startswith(form.family))


def detect(tensors: Mapping[str, np.ndarray], model: str) -> Format | None:
    """The format of a model's files that names its arrays so."""
    return next((form for form in get_formats(model) if form.marker in tensors), None)


def restore_layer_names(tensors: Mapping[str, np.ndarray], model: str) -> Mapping[str, np.ndarray]:
    """The arrays by layer name, if they are of a Keras file that has only classes and numbers."""
    for form in get_formats(model):
        tensors = names.restore_layer_names(tensors, model, form)
    return tensors


def guess_model(tensors: Mapping[str, np.ndarray]) -> str | None:
    """The model that a file holds, if it can be told."""
    return efficientnet_names.guess_model(tensors) or vgg_names.guess_model(tensors)


def describe(model: str) -> str:
    """The names of a model's formats."""
    return ", ".join(form.name for form in get_formats(model))
