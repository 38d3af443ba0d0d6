"""A trained model in one file, to be used without its workdir: all that a prediction needs travels in it.

Two kinds are read here; `conversion` makes them.

safetensors: arrays `networks.0.params.<segment>...`, `networks.0.batch_stats...` and `doubts.0...`, a number for each
network of an ensemble; the header has `schema`, `temperature` and the fields of the description as JSON strings.

StableHLO: a zip, not compressed, of `model.json` (the same fields), `doubts.safetensors`, `weights.safetensors` (arrays
named as above) and `program.jax_export`, a program for any CPU, GPU or TPU:
`jax.export.deserialize(content).call(weights, images)` makes of a dict of these arrays and of images [batch, S, S]
float32, preprocessed and in 0 to 1, a dict of `probabilities` [batch, classes], calibrated, and for each network
`logits` [batch, networks, classes] and `features` [batch, networks, D]. The weights are no constants of the program,
since XLA's fusions of constants on CPUs have been seen to compute wrong values.
"""

import dataclasses
import functools
import io
import json
import pathlib
import zipfile
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import safetensors.numpy
from flax import traverse_util

from bt_jax.common.errors import UsageError
from bt_jax.inference.ood import Doubt
from bt_jax.metrics.calibration import Temperature
from bt_jax.models.pretrained import safetensors_file
from bt_jax.models.registry import Tree

SCHEMA = 1
Program = Callable[..., dict[str, Any]]
_NOTES, _DOUBTS, _WEIGHTS, _PROGRAM = "model.json", "doubts.safetensors", "weights.safetensors", "program.jax_export"
_ZIP_START = b"PK\x03\x04"


@dataclasses.dataclass(frozen=True)
class Stored:
    """What a file holds.

    Attributes:
      description: of all its networks, the fields of `trained_model.ModelDescription`.
      temperature: None where none was stored.
      doubts: one for each network, or none at all.
      networks: {`params`, `batch_stats`} of each; none where the file holds a program.
      program: see above, with its weights filled in; None where the file holds networks.
    """

    description: Mapping[str, Any]
    temperature: Temperature | None
    doubts: Sequence[Doubt]
    networks: Sequence[Mapping[str, Tree]] = ()
    program: Program | None = None


def safetensors_bytes(stored: Stored) -> bytes:
    """The safetensors file of networks."""
    tensors = _doubt_tensors(stored.doubts) | weights_by_name(stored.networks)
    header = {name: json.dumps(value) for name, value in _notes(stored).items()}
    return safetensors.numpy.save(tensors, header)


def weights_by_name(networks: Sequence[Mapping[str, Tree]]) -> dict[str, np.ndarray]:
    """The arrays of {`params`, `batch_stats`} of each network, under their names in files."""
    tensors: dict[str, np.ndarray] = {}
    for number, network in enumerate(networks):
        flat = traverse_util.flatten_dict({key: dict(tree) for key, tree in network.items()}, sep=".")
        tensors |= {f"networks.{number}.{name}": _contiguous(array) for name, array in flat.items()}
    return tensors


def networks_of(weights: Mapping[str, Any]) -> list[dict[str, Tree]]:
    """The inverse of `weights_by_name`."""
    trees = traverse_util.unflatten_dict(dict(weights), sep=".")["networks"]
    networks = [_numbered(trees, number) for number in range(len(trees))]
    return [{"params": tree["params"], "batch_stats": tree.get("batch_stats", {})} for tree in networks]


def stablehlo_bytes(stored: Stored, program: bytes) -> bytes:
    """The zip around a program that was serialized by `jax.export`, and the weights it is called with."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        # A ZipInfo made from the name alone has a fixed date: the same model gives the same bytes.
        archive.writestr(zipfile.ZipInfo(_NOTES), json.dumps(_notes(stored), indent=2))
        archive.writestr(zipfile.ZipInfo(_DOUBTS), safetensors.numpy.save(_doubt_tensors(stored.doubts)))
        archive.writestr(zipfile.ZipInfo(_WEIGHTS), safetensors.numpy.save(weights_by_name(stored.networks)))
        archive.writestr(zipfile.ZipInfo(_PROGRAM), program)
    return buffer.getvalue()


def read(path: pathlib.Path) -> Stored:
    """A file of either kind, known by its content.

    Raises:
      UsageError: it is neither, or damaged.
    """
    with path.open("rb") as file:
        start = file.read(len(_ZIP_START))
    if path.suffix == ".onnx":
        raise UsageError(f"{path} is for ONNX Runtime: here give the workdir, the StableHLO or the safetensors file")
    return _read_stablehlo(path) if start == _ZIP_START else _read_safetensors(path)


def _read_safetensors(path: pathlib.Path) -> Stored:
    tensors, header = safetensors_file.read(path), safetensors_file.metadata(path)
    if "schema" not in header:
        raise UsageError(f"{path} holds weights but no model of bt_jax: give a file that bt_jax.export wrote")
    try:
        notes = {name: json.loads(value) for name, value in header.items()}
        trees = traverse_util.unflatten_dict(tensors, sep=".")
        weights = {name: array for name, array in tensors.items() if name.startswith("networks.")}
        return dataclasses.replace(_stored(notes, trees, path), networks=networks_of(weights))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise _damaged(path, error) from error


def _read_stablehlo(path: pathlib.Path) -> Stored:
    import jax
    import jax.export  # takes a moment, and workdirs do without

    try:
        with zipfile.ZipFile(path) as archive:
            notes, doubts, weights, program = (archive.read(name) for name in (_NOTES, _DOUBTS, _WEIGHTS, _PROGRAM))
        trees = traverse_util.unflatten_dict(safetensors.numpy.load(doubts), sep=".")
        stored = _stored(json.loads(notes), trees, path)
        exported = jax.export.deserialize(bytearray(program))
        on_device = jax.device_put(safetensors.numpy.load(weights), jax.devices()[0])
        return dataclasses.replace(stored, program=functools.partial(jax.jit(exported.call), on_device))
    except UsageError:
        raise
    # The readers of flatbuffers and bytecode let nearly any exception through on damaged input.
    except Exception as error:
        raise _damaged(path, error) from error


def _notes(stored: Stored) -> dict[str, Any]:
    temperature = dataclasses.asdict(stored.temperature) if stored.temperature else None
    return {"schema": SCHEMA, **stored.description, "temperature": temperature}


def _stored(notes: dict[str, Any], trees: Mapping[str, Any], path: pathlib.Path) -> Stored:
    """The fields and what doubts there are."""
    if notes.pop("schema") != SCHEMA:
        raise UsageError(f"{path} is of another version of bt_jax: export the model again with this one")
    temperature = notes.pop("temperature")
    doubts = trees.get("doubts", {})
    return Stored(
        description=notes,
        temperature=Temperature(**temperature) if temperature else None,
        doubts=[Doubt.from_arrays(_numbered(doubts, number)) for number in range(len(doubts))],
    )


def _numbered(trees: Mapping[str, Any], number: int) -> dict[str, Any]:
    tree: dict[str, Any] = trees[str(number)]
    return tree


def _doubt_tensors(doubts: Sequence[Doubt]) -> dict[str, np.ndarray]:
    return {
        f"doubts.{number}.{name}": _contiguous(array)
        for number, doubt in enumerate(doubts)
        for name, array in doubt.arrays().items()
    }


def _contiguous(array: Any) -> np.ndarray:
    return np.array(array, order="C")


def _damaged(path: pathlib.Path, error: Exception) -> UsageError:
    reason = " ".join(str(error).split())[:200]
    return UsageError(f"{path} is no model that bt_jax.export wrote, or damaged ({type(error).__name__}: {reason})")
