"""Trained models in ONNX files, computed without JAX by the engines of `onnx_engine`."""

import base64
import json
import pathlib
from collections.abc import Sequence

import numpy as np
import safetensors
import safetensors.numpy

from bt_jax.common.errors import UsageError
from bt_jax.data.preprocess import Preprocessing
from bt_jax.inference import model_header, onnx_engine
from bt_jax.inference.class_maps import ClassMaps
from bt_jax.inference.description import ModelDescription
from bt_jax.inference.model_header import ModelHeader
from bt_jax.inference.onnx_engine import Session
from bt_jax.inference.trained_model import TrainedModel

# Outputs of the graph; the last one is also the field with the grid of its maps.
LOGITS, FEATURES, CLASS_MAPS = "logits", "features", "class_maps"
_OOD_ARRAYS = "doubts"  # entry of the metadata
_TRIED = 2  # images of the trial run


def encode_metadata(header: ModelHeader, *, grid: dict[str, float] | None) -> dict[str, str]:
    """Encodes what a file stores beside the graph, as text.

    Args:
      header: its fields are JSON, the arrays of its OOD models a safetensors file in base64.
      grid: `first` and `step` of the class activation maps, see `ClassMaps`; None if the graph computes none.
    """
    fields = {**header.to_fields(), CLASS_MAPS: grid}
    arrays = safetensors.numpy.save(header.list_arrays())
    return {name: json.dumps(value) for name, value in fields.items()} | {
        _OOD_ARRAYS: base64.b64encode(arrays).decode()
    }


def load(path: pathlib.Path, *, batch_size: int = 32, engine: str = onnx_engine.AUTO) -> TrainedModel:
    """Loads an ONNX file that `bt_jax.export` wrote.

    Args:
      path: of the file.
      batch_size: images per step.
      engine: what runs it, one of `onnx_engine.ENGINES`.

    Raises:
      UsageError: the file is damaged or holds another model, or the engine is not installed.
    """
    session = onnx_engine.open_session(path, engine=engine)
    metadata = dict(session.metadata)
    if "schema" not in metadata:
        earlier = "class_names" in metadata
        raise UsageError(
            f"{path} is of an earlier version of bt_jax: export the model again with this version"
            if earlier
            else f"{path} holds no bt_jax model: use a file that bt_jax.export --format=onnx wrote"
        )

    def run(outputs: Sequence[str], images: np.ndarray) -> list[np.ndarray]:
        return _run_in_batches(session, outputs, images=images, batch_size=batch_size)

    def compute(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        logits, features = run((LOGITS, FEATURES), images)
        return logits, features

    try:
        arrays = safetensors.numpy.load(base64.b64decode(metadata.pop(_OOD_ARRAYS), validate=True))
        fields = {name: json.loads(value) for name, value in metadata.items()}
        grid = fields.pop(CLASS_MAPS)
        header = model_header.parse(fields, arrays, path=path)
        description = ModelDescription.from_dict(dict(header.description))
        preprocessing = Preprocessing.from_dict(description.preprocessing)
        class_maps = ClassMaps(lambda images: run((CLASS_MAPS,), images)[0], **grid) if grid else None
        members = _try(session, header, classes=len(description.class_names), has_maps=class_maps is not None)
    except (TypeError, KeyError, ValueError, AttributeError, RecursionError, safetensors.SafetensorError) as error:
        raise model_header.make_damage_error(path, error) from error
    if preprocessing.size != session.size:
        sizes = f"{session.size} pixels, not {preprocessing.size}"
        raise UsageError(f"{path} is damaged: its graph takes images of {sizes}")
    return TrainedModel(
        description=description,
        preprocessing=preprocessing,
        compute=compute,
        networks=(),
        folders=(),
        temperature=header.temperature,
        ood_models=tuple(header.ood_models),
        confidence_limit=header.confidence_limit,
        class_maps=class_maps,
        engine=session.engine,
        members=members,
        compiled=False,
    )


def _try(session: Session, header: ModelHeader, *, classes: int, has_maps: bool) -> int:
    """Runs a file on blank images, so that one that does not fit is found before it is used.

    Returns:
      The number of networks.

    Raises:
      ValueError: the outputs are not those of a model with this header.
    """
    names = (LOGITS, FEATURES, *((CLASS_MAPS,) if has_maps else ()))
    if missing := set(names) - set(session.outputs):
        raise ValueError(f"the graph has no output {', '.join(sorted(missing))}")
    logits, features, *maps = session.run(np.zeros((_TRIED, session.size, session.size), np.float32), names)
    members = len(logits) if logits.ndim else 0
    widths = [len(one.centre) for one in header.ood_models]
    fits = (
        logits.shape == (members, _TRIED, classes)
        and features.shape[:2] == (members, _TRIED)
        and features.ndim == 3
        and widths in ([], [features.shape[2]] * members)
        and all(one.ndim == 5 and one.shape[:3] == (members, _TRIED, classes) for one in maps)
    )
    if not (members and fits):
        shapes = [one.shape for one in (logits, features, *maps)]
        raise ValueError(f"outputs of the shapes {shapes} do not fit {classes} classes and OOD models of {widths}")
    return members


def _run_in_batches(
    session: Session, outputs: Sequence[str], *, images: np.ndarray, batch_size: int
) -> list[np.ndarray]:
    """Computes outputs [members, N, ...] of preprocessed images [N, S, S] uint8, N > 0."""
    parts = [
        session.run(np.divide(images[start : start + batch_size], np.float32(255), dtype=np.float32), outputs)
        for start in range(0, len(images), batch_size)
    ]
    return [np.concatenate(arrays, axis=1) for arrays in zip(*parts, strict=True)]
