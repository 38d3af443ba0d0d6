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

CLASS_MAPS = "class_maps"  # name of the output, and of the field with the grid of the maps
_OOD = "doubts"


def encode_metadata(header: ModelHeader, *, grid: dict[str, float] | None) -> dict[str, str]:
    """Encodes what a file stores beside the graph, as text.

    Args:
      header: its fields are JSON, the arrays of its OOD models a safetensors file in base64.
      grid: `first` and `step` of the class activation maps, see `ClassMaps`; None if the graph computes none.
    """
    fields = {**header.to_fields(), CLASS_MAPS: grid}
    arrays = safetensors.numpy.save(header.list_arrays())
    return {name: json.dumps(value) for name, value in fields.items()} | {_OOD: base64.b64encode(arrays).decode()}


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
    if "schema" not in session.metadata:
        raise UsageError(f"{path} lacks what a prediction needs: export the model again with this version of bt_jax")
    try:
        metadata = dict(session.metadata)
        arrays = safetensors.numpy.load(base64.b64decode(metadata.pop(_OOD), validate=True))
        fields = {name: json.loads(value) for name, value in metadata.items()}
        grid = fields.pop(CLASS_MAPS)
        header = model_header.parse(fields, arrays, path=path)
        description = ModelDescription.from_dict(dict(header.description))
        preprocessing = Preprocessing.from_dict(description.preprocessing)
        class_maps = ClassMaps(lambda images: run((CLASS_MAPS,), images)[0], **grid) if grid else None
    except (TypeError, KeyError, ValueError, AttributeError, safetensors.SafetensorError) as error:
        raise model_header.make_damage_error(path, error) from error
    if preprocessing.size != session.size:
        raise UsageError(
            f"{path} is damaged: its graph takes images of {session.size} pixels, not {preprocessing.size}"
        )

    def run(outputs: Sequence[str], images: np.ndarray) -> list[np.ndarray]:
        return _run_in_batches(session, outputs, images=images, batch_size=batch_size)

    def compute(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        logits, features = run(("logits", "features"), images)
        return logits, features

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
        compiled=False,
    )


def _run_in_batches(
    session: Session, outputs: Sequence[str], *, images: np.ndarray, batch_size: int
) -> list[np.ndarray]:
    """Computes outputs [members, N, ...] of preprocessed images [N, S, S] uint8, N > 0."""
    parts = [
        session.run(np.divide(images[start : start + batch_size], np.float32(255), dtype=np.float32), outputs)
        for start in range(0, len(images), batch_size)
    ]
    return [np.concatenate(arrays, axis=1) for arrays in zip(*parts, strict=True)]
