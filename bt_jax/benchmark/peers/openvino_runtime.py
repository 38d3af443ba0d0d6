"""An ONNX file run by OpenVINO alone, float32 on the CPU. Forward only."""

import sys

import turns


def build(mode: str, batch: int, size: int, model: str, path: str) -> turns.Step:
    """Builds a forward pass of the file at `path`."""
    # When imported, openvino would report that to Google Analytics: without this package, it takes a stub.
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    import numpy as np
    import openvino

    if mode != "infer":
        raise ValueError(f"OpenVINO does not support the mode {mode}")
    compiled = openvino.compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    images = np.random.default_rng(0).random((batch, size, size), np.float32)
    return turns.Step(lambda: compiled({"images": images}))


if __name__ == "__main__":
    turns.serve(build, packages=("openvino",))
