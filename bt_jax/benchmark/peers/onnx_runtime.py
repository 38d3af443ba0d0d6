"""A model of timm, exported to ONNX and run by ONNX Runtime, float32 on the CPU. Forward only."""

import pathlib
import tempfile

import turns


def build(mode: str, batch: int, size: int, model: str) -> turns.Step:
    """Builds a forward pass."""
    import numpy as np
    import onnxruntime
    import timm
    import torch

    if mode != "infer":
        raise ValueError(f"ONNX Runtime does not support the mode {mode}")
    torch.manual_seed(0)
    network = timm.create_model(model, pretrained=False, num_classes=4, exportable=True).eval()
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = turns.count_cores()
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "model.onnx"
        torch.onnx.export(network, (torch.rand(batch, 3, size, size),), path, input_names=["images"])
        session = onnxruntime.InferenceSession(path, settings, providers=["CPUExecutionProvider"])
    images = np.random.default_rng(0).random((batch, 3, size, size), np.float32)
    return turns.Step(lambda: session.run(None, {"images": images}))


if __name__ == "__main__":
    turns.serve(build, packages=("onnxruntime", "torch", "timm"))
