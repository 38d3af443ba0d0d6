"""Engines that run an ONNX file on the CPU. The only module that imports onnxruntime and openvino.

Both compute in float32 here. On processors with bfloat16 instructions OpenVINO would choose bfloat16 by itself.
"""

import importlib.util
import pathlib
import sys
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from bt_jax.common.errors import UsageError

AUTO, ONNX_RUNTIME, OPENVINO = "auto", "onnxruntime", "openvino"
ENGINES = (AUTO, ONNX_RUNTIME, OPENVINO)
_INPUT = "images"


class Session(Protocol):
    """A loaded ONNX file. Thread-safe.

    Attributes:
      engine: name and version of what runs it.
      metadata: of the file.
      outputs: the names of its outputs.
      size: side of its images.
    """

    engine: str
    metadata: Mapping[str, str]
    outputs: Sequence[str]
    size: int

    def run(self, images: np.ndarray, outputs: Sequence[str]) -> list[np.ndarray]:
        """Computes the named outputs of images [N, S, S] float32 in [0, 1]."""


def open_session(path: pathlib.Path, *, engine: str = AUTO) -> Session:
    """Loads an ONNX file.

    Args:
      path: of the file.
      engine: one of `ENGINES`; `auto` takes ONNX Runtime where it is installed, else OpenVINO.

    Raises:
      UsageError: the file is damaged, or the engine is not installed.
    """
    if engine == AUTO:
        installed = [name for name in (ONNX_RUNTIME, OPENVINO) if importlib.util.find_spec(name)]
        engine = installed[0] if installed else ONNX_RUNTIME
    if not importlib.util.find_spec(engine):
        raise UsageError(f"an ONNX file needs the package {engine}: python -m pip install {engine}")
    return _OpenvinoSession(path) if engine == OPENVINO else _OnnxRuntimeSession(path)


class _OnnxRuntimeSession(Session):
    def __init__(self, path: pathlib.Path):
        import onnxruntime
        from onnxruntime.capi import onnxruntime_pybind11_state as state

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4  # fatal: errors are raised as well
        try:
            self._session = onnxruntime.InferenceSession(path.read_bytes(), options, providers=["CPUExecutionProvider"])
        except (
            state.Fail, state.InvalidArgument, state.InvalidGraph, state.InvalidProtobuf, state.NoModel,
            state.NotImplemented, state.RuntimeException,
        ) as error:  # fmt: skip
            raise _make_damage_error(path, error) from error
        self.engine = f"ONNX Runtime {onnxruntime.__version__}"
        self.metadata = self._session.get_modelmeta().custom_metadata_map
        self.outputs = [output.name for output in self._session.get_outputs()]
        self.size = _get_size([(one.name, one.shape) for one in self._session.get_inputs()], path)

    def run(self, images: np.ndarray, outputs: Sequence[str]) -> list[np.ndarray]:
        found: list[np.ndarray] = self._session.run(list(outputs), {_INPUT: images})
        return found


class _OpenvinoSession(Session):
    def __init__(self, path: pathlib.Path):
        # When imported, openvino reports the fact to Google Analytics, unless this package is missing.
        sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
        import openvino

        core = openvino.Core()
        try:
            model = core.read_model(path.read_bytes())
            self._compiled = core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        except RuntimeError as error:
            raise _make_damage_error(path, error) from error
        self.engine = f"OpenVINO {openvino.__version__.partition('-')[0]}"
        entries: Any = model.get_rt_info()["framework"] if model.has_rt_info("framework") else {}
        self.metadata = {name: value.value for name, value in entries.items()}
        self.outputs = [output.get_any_name() for output in model.outputs]
        shapes = [
            (one.get_any_name(), [int(str(side)) if side.is_static else None for side in one.partial_shape])
            for one in model.inputs
        ]
        self.size = _get_size(shapes, path)

    def run(self, images: np.ndarray, outputs: Sequence[str]) -> list[np.ndarray]:
        # A request belongs to one thread; its arrays are overwritten by its next run.
        found = self._compiled.create_infer_request().infer({_INPUT: images}, share_outputs=False)
        return [found[name] for name in outputs]


def _get_size(inputs: Sequence[tuple[str, Sequence[Any]]], path: pathlib.Path) -> int:
    """Returns the side of the images that a file takes, given the names and shapes of its inputs."""
    for name, shape in inputs:
        if name == _INPUT and len(inputs) == 1 and len(shape) == 3 and isinstance(shape[2], int):
            return shape[2]
    raise UsageError(f"{path} holds no bt_jax model: use a file that bt_jax.export --format=onnx wrote")


def _make_damage_error(path: pathlib.Path, error: Exception) -> UsageError:
    reason = " ".join(str(error).split())[:200]
    return UsageError(f"{path} is damaged, or not an ONNX file ({reason})")
