"""Loads the arrays of a file into a network's trees: all of them, or an error."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from flax import traverse_util

from bt_jax.common.errors import UsageError
from bt_jax.models.pretrained import formats, names
from bt_jax.models.registry import Network, Tree

_LISTED = 8


def load_into(
    params: Mapping[str, Any],
    batch_stats: Mapping[str, Any],
    tensors: Mapping[str, np.ndarray],
    *,
    network: Network,
    head: bool,
    where: str = "the weights",
) -> tuple[Tree, Tree]:
    """Replaces the arrays of a network with those of a file.

    Every parameter and running statistic must be in the file with the right shape. Otherwise the file may hold only the
    classifier if `head=False`, the normalisation of the input (Keras), and counters of batches (PyTorch).

    Args:
      params: as of `registry.create`.
      batch_stats: likewise.
      tensors: arrays by the names of one of the model's formats (`formats.get_formats`), as the readers give them.
      network: the network of the trees.
      head: whether to load the head too. It must then be the published classifier with the file's number of classes.
      where: name of the file, for error messages.

    Returns:
      `params` and `batch_stats` in the same structure, as float32.

    Raises:
      UsageError: arrays are missing, superfluous or of another shape; the message lists them and the likely model.
    """
    if not formats.get_formats(network.name):
        raise UsageError(f"{where}: weights are not read from files for {network.name}")
    tensors = formats.restore_layer_names(tensors, network.name)
    form, likely = formats.detect(tensors, network.name), formats.guess_model(tensors)
    if form is None:
        found = ", ".join(sorted(tensors)[:_LISTED])
        raise UsageError(
            f"{where}: no names of {network.name} ({formats.describe(network.name)})"
            f"{_advise(likely, network.name)}; found {found}"
        )
    ours = traverse_util.flatten_dict(dict(params)) | traverse_util.flatten_dict(dict(batch_stats))
    wanted = {key: array for key, array in ours.items() if head or key[0] != "head"}
    theirs = names.map_keys(network.name, form, wanted)
    if unnamed := [".".join(key) for key in wanted if key not in theirs]:
        raise UsageError(
            f"{where}: {form.name} files have nothing for {_format_list(unnamed)} of {network.name}; "
            "load without the head"
        )
    expected = {
        theirs[key]: names.export_array(np.empty(array.shape, bool), key, form).shape for key, array in wanted.items()
    }
    actual = {
        key: array.shape
        for key, array in tensors.items()
        if not names.is_ignored(key, form) and (head or not names.is_classifier(key, form))
    }
    _compare(expected, actual, where=where, model=network.name, likely=likely)
    loaded = {key: names.import_array(tensors[theirs[key]], key, form).astype(np.float32) for key in wanted}
    for key, array in loaded.items():
        if not np.isfinite(array).all():
            raise UsageError(f"{where}: {theirs[key]} holds values that are not finite; fetch the file again")
    return _fill(params, loaded), _fill(batch_stats, loaded)


def _fill(tree: Mapping[str, Any], loaded: Mapping[names.Key, np.ndarray]) -> Tree:
    flat = traverse_util.flatten_dict(dict(tree))
    # Not `jnp.asarray`, which compiles a program for each shape.
    filled: Tree = jax.device_put(traverse_util.unflatten_dict({key: loaded.get(key, flat[key]) for key in flat}))
    return filled


def _compare(
    expected: Mapping[str, tuple[int, ...]],
    actual: Mapping[str, tuple[int, ...]],
    *,
    where: str,
    model: str,
    likely: str | None,
) -> None:
    missing = [f"{key} {_format_shape(shape)}" for key, shape in expected.items() if key not in actual]
    extra = [f"{key} {_format_shape(shape)}" for key, shape in actual.items() if key not in expected]
    misshaped = [
        f"{key} {_format_shape(actual[key])} instead of {_format_shape(shape)}"
        for key, shape in expected.items()
        if key in actual and actual[key] != shape
    ]
    problems = (("missing", missing), ("not of this model", extra), ("of another shape", misshaped))
    if any(found for _, found in problems):
        told = "; ".join(f"{len(found)} {what}: {_format_list(found)}" for what, found in problems if found)
        raise UsageError(f"{where}: not the weights of {model}{_advise(likely, model)}; {told}")


def _advise(likely: str | None, model: str) -> str:
    return f"; it looks like {likely}: set the model to that" if likely not in (None, model) else ""


def _format_shape(shape: Sequence[int]) -> str:
    return "x".join(str(size) for size in shape) or "scalar"


def _format_list(found: Collection[str]) -> str:
    more = f", and {len(found) - _LISTED} more" if len(found) > _LISTED else ""
    return ", ".join(list(found)[:_LISTED]) + more
