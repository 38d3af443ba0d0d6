"""Trained models that JAX computes: workdirs of runs and cross-validations, safetensors and StableHLO files.

Nothing here imports the optimiser or the input pipeline.
"""

import json
import os
import pathlib
import typing
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bt_jax.common.errors import UsageError
from bt_jax.data.preprocess import Preprocessing
from bt_jax.inference import model_file, ood
from bt_jax.inference.description import ModelDescription
from bt_jax.inference.forward import compute_outputs, make_forward, prefers_pairs
from bt_jax.inference.stored_programs import StoredForward
from bt_jax.inference.trained_model import Compute, TrainedModel
from bt_jax.inference.trained_network import TrainedNetwork
from bt_jax.metrics import calibration, selective

if typing.TYPE_CHECKING:  # Flax takes a while to import
    from bt_jax.models.registry import Tree


def restore(folder: str | os.PathLike[str], step: int | None = None) -> "tuple[ModelDescription, Tree]":
    """Restores a checkpoint of a run, by default the best one.

    Returns:
      The description, and {`params`, `batch_stats`} on the first device.

    Raises:
      UsageError: the folder holds no run.
    """
    from bt_jax.workdir import checkpoint  # Orbax takes a while to import, and a file needs none; so do those below

    best_step, metadata = checkpoint.read_best_metadata(folder)
    description = ModelDescription.from_dict(metadata["model"])
    return description, _restore_weights(
        folder, best_step if step is None else step, *description.create_abstract_network()[1:]
    )


def read_best_step(folder: str | os.PathLike[str]) -> int:
    """Returns the step of the checkpoint that `load` takes.

    Raises:
      UsageError: the folder holds no run.
    """
    from bt_jax.workdir import checkpoint

    return checkpoint.read_best_metadata(folder)[0]


def _restore_weights(folder: str | os.PathLike[str], step: int, params: "Tree", batch_stats: "Tree") -> "Tree":
    from bt_jax.workdir import checkpoint

    here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    tree = checkpoint.make_abstract({"params": params, "batch_stats": batch_stats}, here)
    weights: Tree = checkpoint.restore_for_evaluation(folder, step, tree)
    return weights


def load(path: str | os.PathLike[str], *, batch_size: int = 32, last: bool = False) -> TrainedModel:
    """Loads the best checkpoint of a run, or of every fold of a cross-validation, or a file that `export` wrote.

    Args:
      path: workdir, StableHLO or safetensors file; see `loading.load` for ONNX files.
      batch_size: images per step. A smaller batch is padded to a power of two; each size is compiled separately.
      last: takes the last checkpoint of a run in place of the best one, and then without what was fitted to that.

    Raises:
      UsageError: the path holds no model, or the folds do not belong together.
    """
    path = pathlib.Path(path)
    return _load_file(path, batch_size) if path.is_file() else _load_workdir(path, batch_size, last=last)


def _load_workdir(folder: pathlib.Path, batch_size: int, *, last: bool) -> TrainedModel:
    from bt_jax.workdir import checkpoint

    folds = sorted(folder.glob("fold_*")) or [folder]
    if folds != [folder] and not (folder / "cross_validation.json").exists():
        raise UsageError(
            f"the cross-validation in {folder} is not finished: run it to the end, or use one of its folds"
        )
    descriptions, networks, temperatures, ood_models, limits = [], [], [], [], []
    for fold in folds:
        step, metadata = (checkpoint.read_last_metadata if last else checkpoint.read_best_metadata)(fold)
        description = ModelDescription.from_dict(metadata["model"])
        weights = _restore_weights(fold, step, *description.create_abstract_network()[1:])
        temperatures.append(calibration.read(fold, step=step))
        ood_models.append(ood.read(fold, step=step))
        limits.append(selective.read(fold, step=step))
        descriptions.append(description)
        networks.append(TrainedNetwork(description, weights["params"], weights["batch_stats"]))
    first = descriptions[0]
    if any((d.class_names, d.preprocessing) != (first.class_names, first.preprocessing) for d in descriptions):
        raise UsageError(f"the folds in {folder} differ in classes or preprocessing, so they are not one ensemble")
    return TrainedModel(
        description=first,
        preprocessing=Preprocessing.from_dict(first.preprocessing),
        compute=make_compute(networks, batch_size),
        networks=tuple(networks),
        folders=tuple(folds),
        # The members of an ensemble share one temperature, fitted on the outputs of all: see `cross_validation`.
        temperature=temperatures[0] if folds == [folder] else calibration.read(folder),
        # The mean of only some members' scores would need another threshold.
        ood_models=tuple(known) if len(known := [one for one in ood_models if one]) == len(folds) else (),
        confidence_limit=limits[0] if folds == [folder] else None,
        members=len(networks),
    )


def _load_file(path: pathlib.Path, batch_size: int) -> TrainedModel:
    stored = model_file.read(path)
    try:
        description = ModelDescription.from_dict({**stored.description})
        networks = [_fill_network(description, weights) for weights in stored.networks]
        preprocessing = Preprocessing.from_dict(description.preprocessing)
    except (TypeError, KeyError, ValueError) as error:
        raise UsageError(f"{path} does not describe a model ({type(error).__name__}: {error})") from error
    return TrainedModel(
        description=description,
        preprocessing=preprocessing,
        compute=_wrap_program(stored.program, batch_size) if stored.program else make_compute(networks, batch_size),
        networks=tuple(networks),
        folders=(),
        temperature=stored.temperature,
        ood_models=tuple(stored.ood_models),
        confidence_limit=stored.confidence_limit,
        members=len(networks) or len(stored.ood_models) or 1,
    )


def _fill_network(description: ModelDescription, weights: Mapping[str, Any]) -> TrainedNetwork:
    """Makes the network of a description with the given weights.

    Raises:
      ValueError: the weights do not have the network's names and shapes.
    """
    given = jax.tree.map(lambda leaf: np.asarray(leaf, np.float32), (weights["params"], weights["batch_stats"]))
    member = TrainedNetwork(description, *jax.device_put(given, jax.devices()[0]))
    if not _make_stored_forward(member).is_known:
        _check_weights(description, given)
    return member


def _check_weights(description: ModelDescription, given: tuple[Any, Any]) -> None:
    expected, found = (
        {jax.tree_util.keystr(where): leaf.shape for where, leaf in jax.tree_util.tree_leaves_with_path(trees)}
        for trees in (description.create_abstract_network()[1:], given)
    )
    if expected != found:
        names = sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))
        raise ValueError(f"the weights do not fit {description.name}: {', '.join(names[:3])}")


def make_compute(networks: Sequence[TrainedNetwork], batch_size: int) -> Compute:
    """Makes `TrainedModel.compute` of networks; networks that differ only in their weights share one program."""
    forwards: dict[str, StoredForward] = {}
    members = []
    for member in networks:
        key = json.dumps(member.facts, sort_keys=True)
        forward = forwards.setdefault(key, _make_stored_forward(member))
        members.append((forward, member.params, member.batch_stats))

    def compute(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        rows = _choose_batch_size(len(images), batch_size)
        outputs = (
            compute_outputs(forward, params, batch_stats, images=images, batch_size=rows)
            for forward, params, batch_stats in members
        )
        logits, features = zip(*outputs, strict=True)
        return np.stack(logits), np.stack(features)

    return compute


def _make_stored_forward(member: TrainedNetwork) -> StoredForward:
    return StoredForward(
        member.facts,
        (member.params, member.batch_stats),
        lambda: make_forward(
            member.network,
            normalisation=member.normalisation,
            dtype=jnp.dtype("float32"),
            mirrored=member.mirrored,
            by_pairs=prefers_pairs(jax.devices()[:1]),
        ),
    )


def _choose_batch_size(count: int, batch_size: int) -> int:
    """Chooses the rows of a step: the next power of two for fewer images than `batch_size`."""
    return min(batch_size, 1 << (max(count, 1) - 1).bit_length())


def _wrap_program(program: model_file.Program, batch_size: int) -> Compute:
    """Makes `TrainedModel.compute` of an exported program."""

    def forward(part: np.ndarray) -> tuple[jax.Array, jax.Array]:
        outputs = program(np.divide(part, np.float32(255), dtype=np.float32))
        return outputs["logits"], outputs["features"]

    def compute(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        logits, features = compute_outputs(
            forward, images=images, batch_size=_choose_batch_size(len(images), batch_size)
        )
        return logits.swapaxes(0, 1), features.swapaxes(0, 1)

    return compute
