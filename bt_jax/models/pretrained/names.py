"""How files of weights call the arrays of a network, and how they lay them out: what all formats have in common.

Ours are [K, K, in, out] for a convolution, [K, K, C] for a depthwise one, [in, out] for a dense layer. One table of
layers for each format serves both directions.
"""

import dataclasses
import re
from collections.abc import Callable, Iterable, Mapping

import numpy as np

# The way to an array in the trees of parameters and statistics, such as ("stem", "conv", "kernel").
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
      family: how the names of its models in the registry begin.
      marker: a key that only files of this format have.
      layers: model -> the layers in the order in which they are applied, ours -> theirs.
      variables: our array of a layer -> theirs.
      classifier: pattern of the layers that only suit the classes they were trained for.
      ignored: pattern of keys that no network of ours needs.
      torch: whether kernels are laid out as PyTorch's.
      flattened: kernels behind a flattened map of so many channels, which PyTorch flattens channels first.
      keras_class: our layer -> its class as it stands in files of the first releases of Keras 3.
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
    """Their name for each of our arrays. Arrays that the format has no name for are left out."""
    table = form.layers(model)
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
    """Whether the array belongs to the layers that only suit the classes they were trained for."""
    return re.match(rf"({form.classifier})[./]", key) is not None


def export_array(array: np.ndarray, key: Key, form: Format) -> np.ndarray:
    """One of our arrays as the format lays it out."""
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
    """The inverse of `export_array`."""
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
    """Arrays of Keras by layer name, where the file has only classes and numbers (`conv2d_1`).

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
