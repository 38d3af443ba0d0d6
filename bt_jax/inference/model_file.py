"""The file formats of an exported model. A file holds everything that a prediction needs, so no workdir is required.

`convert` writes the two formats that are read here.

safetensors: the arrays `networks.0.params.<segment>...`, `networks.0.batch_stats...` and `doubts.0...` (the OOD model),
numbered by the networks of an ensemble. The header holds `schema`, `temperature`, `confidence_limit` and the fields of
the description as JSON strings. The arrays are float32; in a file of half the size, the large ones are float16.

StableHLO: an uncompressed zip of `model.json` (the same fields), `doubts.safetensors`, `weights.safetensors` (arrays
named as above) and `program.jax_export`, a program for any CPU, GPU or TPU.
`jax.export.deserialize(content).call(weights, images)` takes a dict of these arrays and preprocessed images
[batch, S, S] float32 in [0, 1]. It returns a dict of the calibrated `probabilities` [batch, classes], the `logits`
[batch, networks, classes] and the `features` [batch, networks, D]. The weights are arguments of the program rather than
constants because XLA has computed wrong values when fusing large constants on CPUs.
"""

import dataclasses
import functools
import io
import json
import pathlib
import typing
import zipfile
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
import safetensors.numpy

from bt_jax.common.errors import UsageError
from bt_jax.inference import model_header
from bt_jax.inference.model_header import ModelHeader
from bt_jax.models.pretrained import safetensors_file

if typing.TYPE_CHECKING:  # Flax takes a while to import
    from bt_jax.models.registry import Tree

LARGE = 20_000  # values
Program = Callable[..., dict[str, Any]]
_NOTES, _OOD, _WEIGHTS, _PROGRAM = "model.json", "doubts.safetensors", "weights.safetensors", "program.jax_export"
_ZIP_START = b"PK\x03\x04"


@dataclasses.dataclass(frozen=True)
class StoredModel(ModelHeader):
    """Content of a model file.

    Attributes:
      networks: {`params`, `batch_stats`} of each network; empty if the file holds a program.
      program: the exported program with its weights bound; None if the file holds networks.
    """

    networks: Sequence[Mapping[str, "Tree"]] = ()
    program: Program | None = None


def encode_safetensors(stored: StoredModel, *, half: bool = False) -> bytes:
    """Encodes networks as a safetensors file.

    Args:
      stored: the model.
      half: stores arrays of more than `LARGE` values as float16. The others, such as depthwise filters and the
        variances of a BatchNorm, are few and matter most: with them too in float16, the probabilities of an
        EfficientNet-Lite1 differed by up to 1.4e-2, without by up to 1.0e-3.
    """
    weights = flatten_weights(stored.networks)
    if half:
        weights = {name: array.astype(np.float16) if array.size > LARGE else array for name, array in weights.items()}
    tensors = stored.list_arrays() | weights
    header = {name: json.dumps(value) for name, value in stored.to_fields().items()}
    return safetensors.numpy.save(tensors, header)


def flatten_weights(networks: Sequence[Mapping[str, "Tree"]]) -> dict[str, np.ndarray]:
    """Maps names in the file to arrays, given {`params`, `batch_stats`} of each network."""
    tensors: dict[str, np.ndarray] = {}
    for number, network in enumerate(networks):
        leaves = jax.tree_util.tree_leaves_with_path({key: dict(tree) for key, tree in network.items()})
        tensors |= {
            f"networks.{number}.{jax.tree_util.keystr(path, simple=True, separator='.')}": _make_contiguous(array)
            for path, array in leaves
        }
    return tensors


def unflatten_weights(weights: Mapping[str, Any]) -> list[dict[str, "Tree"]]:
    """Inverts `flatten_weights`."""
    trees: dict[str, Any] = {}
    for name, array in weights.items():
        *above, last = name.split(".")
        tree = trees
        for part in above:
            tree = tree.setdefault(part, {})
        tree[last] = array
    trees = trees["networks"]
    networks = [_get_numbered(trees, number) for number in range(len(trees))]
    return [{"params": tree["params"], "batch_stats": tree.get("batch_stats", {})} for tree in networks]


def encode_stablehlo(stored: StoredModel, program: bytes) -> bytes:
    """Encodes a program that `jax.export` serialised, and the weights it is called with, as a zip."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        # A ZipInfo made from the name alone has a fixed date, so that the same model gives the same bytes.
        archive.writestr(zipfile.ZipInfo(_NOTES), json.dumps(stored.to_fields(), indent=2))
        archive.writestr(zipfile.ZipInfo(_OOD), safetensors.numpy.save(stored.list_arrays()))
        archive.writestr(zipfile.ZipInfo(_WEIGHTS), safetensors.numpy.save(flatten_weights(stored.networks)))
        archive.writestr(zipfile.ZipInfo(_PROGRAM), program)
    return buffer.getvalue()


def read(path: pathlib.Path) -> StoredModel:
    """Reads a file of either format, recognised by its content.

    Raises:
      UsageError: the file has neither format, or is damaged.
    """
    with path.open("rb") as file:
        start = file.read(len(_ZIP_START))
    return _read_stablehlo(path) if start == _ZIP_START else _read_safetensors(path)


def _read_safetensors(path: pathlib.Path) -> StoredModel:
    tensors, header = safetensors_file.read(path), safetensors_file.read_metadata(path)
    if "schema" not in header:
        raise UsageError(f"{path} holds weights but no bt_jax model: use a file that bt_jax.export wrote")
    try:
        notes = {name: json.loads(value) for name, value in header.items()}
        weights = {name: array for name, array in tensors.items() if name.startswith("networks.")}
        return StoredModel(**vars(model_header.parse(notes, tensors, path=path)), networks=unflatten_weights(weights))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise model_header.make_damage_error(path, error) from error


def _read_stablehlo(path: pathlib.Path) -> StoredModel:
    import jax.export  # slow to import, and not needed for workdirs

    try:
        with zipfile.ZipFile(path) as archive:
            notes, ood_models, weights, program = (archive.read(name) for name in (_NOTES, _OOD, _WEIGHTS, _PROGRAM))
        header = model_header.parse(json.loads(notes), safetensors.numpy.load(ood_models), path=path)
        exported = jax.export.deserialize(bytearray(program))
        on_device = jax.device_put(safetensors.numpy.load(weights), jax.devices()[0])
        return StoredModel(**vars(header), program=functools.partial(jax.jit(exported.call), on_device))
    except UsageError:
        raise
    # On damaged input, the readers of flatbuffers and bytecode raise nearly any exception.
    except Exception as error:
        raise model_header.make_damage_error(path, error) from error


def _get_numbered(trees: Mapping[str, Any], number: int) -> dict[str, Any]:
    tree: dict[str, Any] = trees[str(number)]
    return tree


def _make_contiguous(array: Any) -> np.ndarray:
    return np.array(array, order="C")
