"""Names and layouts of a network's arrays in files of weights: what all formats share.

Our layouts are [K, K, in, out] for a convolution, [K, K, C] for a depthwise one, and [in, out] for a dense layer. One
table of layers for each format serves both directions.
"""

import dataclasses
import re
from collections.abc import Callable, Iterable, Mapping

import numpy as np

# The path of an array in the trees of parameters and statistics, such as ("stem", "conv", "kernel").
Key = tuple[str, ...]

KERAS_VARIABLES = {"kernel": "0", "scale": "0", "bias": "1", "mean": "2", "variance": "3"}
TORCH_VARIABLES = {
    "kernel": "weight",
    "scale": "weight",
    "bias": "bias",
    "mean": "running_mean",
    "variance": "running_var",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Format:
    """A naming of layers and of the arrays in a layer.

    Attributes:
      name: for messages.
      family: prefix of the names of its models in the registry.
      marker: a key that only files of this format have.
      layers: model -> its layers in the order of application, our name -> their name.
      variables: our name of an array of a layer -> their name.
      classifier: pattern of the layers that depend on the classes they were trained for.
      ignored: pattern of keys that our networks do not need.
      torch: whether kernels have PyTorch's layout.
      flattened: kernels after a flattened map, with its number of channels; PyTorch flattens channels first.
      keras_class: our layer -> its class in files of the first releases of Keras 3.
    """

    name: str
    family: str
    marker: str
    layers: Callable[[str], dict[Key, str]]
    variables: Mapping[str, str]
    classifier: str
    ignored: str
    torch: bool
    flattened: Mapping[Key, int] = dataclasses.field(default_factory=dict)
    keras_class: Callable[[Key], str] | None = None


def map_keys(model: str, form: Format, arrays: Iterable[Key]) -> dict[Key, str]:
    """Returns the format's name for each of our arrays, without arrays that the format has no name for."""
    table = form.layers(model)
    separator = "." if form.torch else "/"
    return {
        key: f"{table[key[:-1]]}{separator}{form.variables[key[-1]]}"
        for key in arrays
        if key[:-1] in table and key[-1] in form.variables
    }


def is_ignored(key: str, form: Format) -> bool:
    """Returns whether our networks do not need an array, such as a counter of batches."""
    return re.fullmatch(form.ignored, key) is not None


def is_classifier(key: str, form: Format) -> bool:
    """Returns whether an array belongs to the layers that depend on the classes they were trained for."""
    return re.match(rf"({form.classifier})[./]", key) is not None


def export_array(array: np.ndarray, key: Key, form: Format) -> np.ndarray:
    """Converts one of our arrays to the format's layout."""
    if "depthwise" in key and array.ndim == 3:
        array = array[..., None]  # [K, K, C, 1]
        return array.transpose(2, 3, 0, 1) if form.torch else array
    if form.torch and array.ndim == 4:
        return array.transpose(3, 2, 0, 1)  # [out, in, K, K]
    if form.torch and key in form.flattened:
        rows_of = array.reshape(-1, form.flattened[key], array.shape[-1])  # [pixels, C, out]
        array = rows_of.swapaxes(0, 1).reshape(array.shape)
    return array.T if form.torch else array


def import_array(array: np.ndarray, key: Key, form: Format) -> np.ndarray:
    """Converts an array of the format to our layout: the inverse of `export_array`."""
    if "depthwise" in key and array.ndim == 4:
        return (array.transpose(2, 3, 0, 1) if form.torch else array)[..., 0]
    if form.torch and array.ndim == 4:
        return array.transpose(2, 3, 1, 0)
    array = array.T if form.torch else array
    if form.torch and key in form.flattened:
        rows_of = array.reshape(form.flattened[key], -1, array.shape[-1])  # [C, pixels, out]
        array = rows_of.swapaxes(0, 1).reshape(array.shape)
    return array


def restore_layer_names(tensors: Mapping[str, np.ndarray], model: str, form: Format) -> dict[str, np.ndarray]:
    """Returns Keras arrays by layer name if the file has only class names and numbers (`conv2d_1`).

    The numbers count the layers of a class in the order of the model, which is known.
    """
    if form.keras_class is None or form.marker in tensors or "conv2d/0" not in tensors:
        return dict(tensors)
    counts: dict[str, int] = {}
    table = {}
    for ours, theirs in form.layers(model).items():
        kind = form.keras_class(ours)
        number = counts.setdefault(kind, 0)
        table[f"{kind}_{number}" if number else kind] = theirs
        counts[kind] += 1
    named = {}
    for key, array in tensors.items():
        layer, _, index = key.partition("/")
        named[f"{table.get(layer, layer)}/{index}"] = array
    return named
