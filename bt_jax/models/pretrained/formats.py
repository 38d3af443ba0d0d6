"""All supported formats of files of weights."""

from collections.abc import Mapping

import numpy as np

from bt_jax.models.pretrained import efficientnet_names, names, vgg_names
from bt_jax.models.pretrained.names import Format

FORMATS = (*efficientnet_names.FORMATS, *vgg_names.FORMATS)


def get_formats(model: str) -> tuple[Format, ...]:
    """Returns the formats that a model's weights are published in, if any."""
    return tuple(form for form in FORMATS if model.startswith(form.family))


def detect(tensors: Mapping[str, np.ndarray], model: str) -> Format | None:
    """Returns the format of a model's files that has these names, or None."""
    return next((form for form in get_formats(model) if form.marker in tensors), None)


def restore_layer_names(tensors: Mapping[str, np.ndarray], model: str) -> Mapping[str, np.ndarray]:
    """Returns the arrays by layer name, also if a Keras file has only class names and numbers."""
    for form in get_formats(model):
        tensors = names.restore_layer_names(tensors, model, form)
    return tensors


def guess_model(tensors: Mapping[str, np.ndarray]) -> str | None:
    """Returns the model that a file seems to hold, or None."""
    return efficientnet_names.guess_model(tensors) or vgg_names.guess_model(tensors)


def describe(model: str) -> str:
    """Lists the names of a model's formats."""
    return ", ".join(form.name for form in get_formats(model))
