"""Engines that run an ONNX file on the CPU. The only module that imports onnxruntime and openvino.

Both compute in float32 here. On processors with bfloat16 instructions OpenVINO would choose bfloat16 by itself.
"""

import abc
import importlib.util
import os
import pathlib
import sys
import threading
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from bt_jax.common.errors import UsageError
from bt_jax.inference import model_header

AUTO, ONNX_RUNTIME, OPENVINO = "auto", "onnxruntime", "openvino"
ENGINES = (AUTO, ONNX_RUNTIME, OPENVINO)
IMAGES = "images"  # name of the input
_MOST_BYTES = 2**31  # of a protobuf file
_OTHERS = "holds no bt_jax model: use a file that bt_jax.export --format=onnx wrote"


class Session(abc.ABC):
    """A loaded ONNX file with one input, `images` [any number, S, S] float32. Thread-safe.

    Attributes:
      engine: name and version of what runs it.
      metadata: of the file.
      outputs: the names of its outputs.
      size: S.
    """

    engine: str
    metadata: Mapping[str, str]
    outputs: Sequence[str]
    size: int

    @abc.abstractmethod
    def run(self, images: np.ndarray, outputs: Sequence[str]) -> list[np.ndarray]:
        """Computes the named outputs of images [N, S, S] float32 in [0, 1]."""


def open_session(path: pathlib.Path, *, engine: str = AUTO) -> Session:
    """Loads an ONNX file.

    Args:
      path: of the file.
      engine: one of `ENGINES`; `auto` takes ONNX Runtime where it is installed, else OpenVINO.

    Raises:
      UsageError: the file is damaged or takes something else than images, or the engine is not installed.
    """
    if path.stat().st_size >= _MOST_BYTES:
        raise UsageError(f"{path} has more than 2 GiB, which no ONNX file may have")
    if engine == AUTO:
        installed = [name for name in (ONNX_RUNTIME, OPENVINO) if importlib.util.find_spec(name)]
        engine = installed[0] if installed else ONNX_RUNTIME
    if not importlib.util.find_spec(engine):
        raise UsageError(f"an ONNX file needs the package {engine}: python -m pip install {engine}")
    try:
        return _OpenvinoSession(path) if engine == OPENVINO else _OnnxRuntimeSession(path)
    except UsageError:
        raise
    except ImportError as error:
        raise UsageError(f"the package {engine} cannot be imported: {model_header.shorten(error)}") from error
    # Of a file that they cannot run, both raise exceptions of several kinds with no base but this.
    except Exception as error:
        reason = model_header.shorten(error)
        raise UsageError(
            f"{path} cannot be run by {engine}: it is damaged, of a newer format, or not an ONNX file ({reason})"
        ) from error


class _OnnxRuntimeSession(Session):
    def __init__(self, path: pathlib.Path):
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4  # fatal: errors are raised as well
        # By default, the threads are bound to cores, also to those that this process may not use.
        options.intra_op_num_threads = _count_cores()
        self._session = onnxruntime.InferenceSession(path.read_bytes(), options, providers=["CPUExecutionProvider"])
        self.engine = f"ONNX Runtime {onnxruntime.__version__}"
        self.metadata = self._session.get_modelmeta().custom_metadata_map
        self.outputs = [output.name for output in self._session.get_outputs()]
        inputs = [
            (one.name, one.type == "tensor(float)", [side if isinstance(side, int) else None for side in one.shape])
            for one in self._session.get_inputs()
        ]
        self.size = _get_size(inputs, path)

    def run(self, images: np.ndarray, outputs: Sequence[str]) -> list[np.ndarray]:
        found: list[np.ndarray] = self._session.run(list(outputs), {IMAGES: images})
        return found


class _OpenvinoSession(Session):
    def __init__(self, path: pathlib.Path):
        openvino = _import_openvino()
        core = openvino.Core()
        model = core.read_model(path.read_bytes())
        self._compiled = core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        self._own = threading.local()
        self.engine = f"OpenVINO {openvino.__version__.partition('-')[0]}"
        entries: Any = model.get_rt_info()["framework"] if model.has_rt_info("framework") else {}
        self.metadata = {name: value.value for name, value in entries.items()}
        self.outputs = [output.get_any_name() for output in model.outputs]
        inputs = [
            (
                one.get_any_name(),
                one.element_type == openvino.Type.f32,
                [side.get_length() if side.is_static else None for side in one.partial_shape],
            )
            for one in model.inputs
        ]
        self.size = _get_size(inputs, path)

    def run(self, images: np.ndarray, outputs: Sequence[str]) -> list[np.ndarray]:
        if not hasattr(self._own, "request"):  # it keeps its memory, and serves one thread at a time
            self._own.request = self._compiled.create_infer_request()
        found = self._own.request.infer({IMAGES: images}, share_inputs=True, share_outputs=False)
        return [found[name] for name in outputs]


def _import_openvino() -> Any:
    """Imports openvino without its telemetry: the import would report itself to Google Analytics."""
    name = "openvino_telemetry"
    missing = name not in sys.modules
    sys.modules.setdefault(name, None)  # type: ignore[arg-type] # openvino then takes a stub in its place
    try:
        import openvino
    finally:
        if missing:
            del sys.modules[name]
    return openvino


def _count_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _get_size(inputs: Sequence[tuple[str, bool, Sequence[int | None]]], path: pathlib.Path) -> int:
    """Returns the side of the images that a file takes.

    Args:
      inputs: name, whether it is float32, and shape of each input, None for a dimension that is not fixed.
      path: of the file.
    """
    if len(inputs) == 1:
        ((name, is_float32, shape),) = inputs
        match shape:
            case [None, int() as height, int() as width] if name == IMAGES and is_float32 and height == width:
                return width
    raise UsageError(f"{path} {_OTHERS}")
