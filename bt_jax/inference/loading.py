"""Loading of trained models: the one place that chooses between JAX and an engine for ONNX files."""

import os
import pathlib
from collections.abc import Iterable

from bt_jax.common.errors import UsageError
from bt_jax.inference import onnx_engine
from bt_jax.inference.trained_model import TrainedModel

_IR_VERSION_FIELD, _JSON = b"\x08", b"{"


def load(path: str | os.PathLike[str], *, batch_size: int = 32, engine: str = onnx_engine.AUTO) -> TrainedModel:
    """Loads the best checkpoint of a run, or of every fold of a cross-validation, or a file that `export` wrote.

    Args:
      path: workdir, StableHLO, safetensors or ONNX file.
      batch_size: images per step.
      engine: what runs an ONNX file, one of `onnx_engine.ENGINES`; the others are computed by JAX.

    Raises:
      UsageError: the path holds no model, the folds do not belong together, or a package is missing.
    """
    path = pathlib.Path(path)
    if path.suffix == ".onnx" and not path.is_file():
        raise UsageError(f"{path} is not a file: give --model an exported file or the workdir of a run")
    if is_onnx(path):
        from bt_jax.inference import onnx_model

        return onnx_model.load(path, batch_size=batch_size, engine=engine)
    from bt_jax.inference import jax_model  # takes seconds, and an ONNX file needs no JAX

    return jax_model.load(path, batch_size=batch_size)


def check_engine(engine: str, paths: Iterable[str | os.PathLike[str]]) -> None:
    """Raises `UsageError` if an engine is chosen and none of the models is an ONNX file."""
    if engine != onnx_engine.AUTO and not any(map(is_onnx, paths)):
        raise UsageError(
            f"--engine={engine} runs ONNX files, and --model names none: write one with bt_jax.export --format=onnx"
        )


def is_onnx(path: str | os.PathLike[str]) -> bool:
    """Returns whether a path is an ONNX file, by its content.

    ONNX files begin with the field of their version. So can a safetensors file, whose first eight bytes are a length,
    but then a JSON object follows.
    """
    path = pathlib.Path(path)
    if not path.is_file():
        return False
    with path.open("rb") as file:
        start = file.read(9)
    return path.suffix == ".onnx" or (start.startswith(_IR_VERSION_FIELD) and not start.endswith(_JSON))
