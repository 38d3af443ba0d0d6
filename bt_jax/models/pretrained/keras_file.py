"""Reads Keras files of weights: `.h5` of Keras 1 and 2 (and `model.save` of Keras 3), and `.weights.h5` of Keras 3."""

import contextlib
import itertools
import pathlib
from collections.abc import Iterator

import h5py
import numpy as np

from bt_jax.common.errors import UsageError
from bt_jax.common.files import Path


def read(path: Path) -> dict[str, np.ndarray]:
    """Reads all weights.

    Returns:
      Arrays by `LAYER/INDEX`, where the index counts the weights of a layer in Keras's order (kernel, bias; gamma,
      beta, moving mean, moving variance; mean, variance, count). Early Keras 3 stored no layer names: a layer then
      has its class and number as in the file (`conv2d`, `conv2d_1`, ...).

    Raises:
      UsageError: there is no such file, or it is not a Keras file.
    """
    with _open_layers(path) as layers:
        return {
            f"{name}/{index}": dataset[()]
            for name, datasets in layers.items()
            for index, dataset in enumerate(datasets)
        }


def read_layer_names(path: Path) -> tuple[str, ...]:
    """Reads the names of all layers in the file, including those without weights.

    Raises:
      UsageError: as for `read`.
    """
    with _open_layers(path) as layers:
        return tuple(layers)


@contextlib.contextmanager
def _open_layers(path: Path) -> Iterator[dict[str, list[h5py.Dataset]]]:
    path = pathlib.Path(path)
    if not path.is_file():
        raise UsageError(f"{path}: there is no such file")
    try:
        with h5py.File(path, "r") as file:
            root = file.get("model_weights", file)
            if "layer_names" in root.attrs or "layer_names0" in root.attrs:
                layers = _read_named_layers(root)
            else:
                layers = _read_numbered_layers(root)
            if not layers:
                raise UsageError(f"{path}: an HDF5 file, but not of Keras weights; use model.save_weights of Keras")
            yield layers
    except (OSError, KeyError, ValueError, RuntimeError, AttributeError) as error:
        raise UsageError(f"{path}: not a Keras file of weights, or damaged ({error}); fetch it again") from error


def _read_named_layers(root: h5py.Group) -> dict[str, list[h5py.Dataset]]:
    """Reads the layout with the attributes `layer_names` and `weight_names`."""
    return {
        layer: [root[layer][name] for name in _read_strings(root[layer], "weight_names")]
        for layer in _read_strings(root, "layer_names")
    }


def _read_strings(group: h5py.Group, attribute: str) -> list[str]:
    """Reads a list of strings; Keras splits one that is too long for an attribute into numbered pieces."""
    pieces = [attribute]
    if attribute not in group.attrs:
        numbered = (f"{attribute}{number}" for number in itertools.count())
        pieces = list(itertools.takewhile(lambda piece: piece in group.attrs, numbered))
    strings = [string for piece in pieces for string in group.attrs[piece]]
    return [string.decode() if isinstance(string, bytes) else str(string) for string in strings]


def _read_numbered_layers(root: h5py.Group) -> dict[str, list[h5py.Dataset]]:
    """Reads the layout `layers/CLASS_NUMBER/vars/INDEX`, to which later releases of Keras 3 add the layer's name."""
    container = next((root[name] for name in ("layers", "_layer_checkpoint_dependencies") if name in root), None)
    if container is None:
        return _read_attributes(root)
    layers = {}
    for key, layer in container.items():
        variables = layer.get("vars", {})
        name = variables.attrs.get("name", key) if isinstance(variables, h5py.Group) else key
        layers[str(name)] = [variables[index] for index in sorted(variables, key=int)]
    return layers


def _read_attributes(root: h5py.Group) -> dict[str, list[h5py.Dataset]]:
    """Reads the layout of a model class whose attributes are layers or lists of layers: `.../vars/INDEX`."""
    layers: dict[str, list[h5py.Dataset]] = {}

    def visit(path: str, item: h5py.Group | h5py.Dataset) -> None:
        if path.endswith("/vars") and not path.startswith("optimizer/") and isinstance(item, h5py.Group) and len(item):
            place = path.removesuffix("/vars")
            name = str(item.attrs.get("name", place))
            layers[place if name in layers else name] = [item[index] for index in sorted(item, key=int)]

    root.visititems(visit)
    return layers
