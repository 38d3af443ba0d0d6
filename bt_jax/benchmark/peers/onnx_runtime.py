"""An ONNX file run by ONNX Runtime alone, float32 on the CPU. Forward only."""

import turns


def build(mode: str, batch: int, size: int, model: str, path: str) -> turns.Step:
    """Builds a forward pass of the file at `path`."""
    import numpy as np
    import onnxruntime

    if mode != "infer":
        raise ValueError(f"ONNX Runtime does not support the mode {mode}")
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = turns.count_cores()
    session = onnxruntime.InferenceSession(path, settings, providers=["CPUExecutionProvider"])
    images = np.random.default_rng(0).random((batch, size, size), np.float32)
    return turns.Step(lambda: session.run(["logits"], {"images": images}))


if __name__ == "__main__":
    turns.serve(build, packages=("onnxruntime",))
