"""The ONNX files: what a program that knows nothing of this package finds in them."""

import json
import sys

import numpy as np
import onnx
import onnxruntime
import pytest

from bt_jax.common.errors import UsageError
from bt_jax.inference import convert, onnx_graph, onnx_layers
from bt_jax.inference.model_header import ModelHeader
from tests import small_models

HEADER = ModelHeader(description={}, temperature=None, ood_models=())


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A model and its ONNX file."""
    folder = tmp_path_factory.mktemp("onnx")
    model = small_models.write(folder / "m.safetensors", "cnn", size=16, filters=(4, 6), hidden=(5,))
    convert.write(folder / "model.onnx", model, form="onnx", images=small_models.images(3, 16))
    return model, folder / "model.onnx"


def test_inputs_outputs_and_notes(made):
    model, path = made
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (images,) = session.get_inputs()
    assert (images.name, images.shape, images.type) == ("images", ["batch", 16, 16], "tensor(float)")
    assert {out.name: out.shape for out in session.get_outputs()} == {
        "probabilities": ["batch", 4],
        "logits": [1, "batch", 4],
        "features": [1, "batch", 5],
    }
    notes = session.get_modelmeta().custom_metadata_map
    assert json.loads(notes["class_names"]) == list(model.class_names)
    assert json.loads(notes["preprocessing"]) == model.preprocessing.to_dict()
    assert json.loads(notes["temperature"])["value"] == 1.7
    assert json.loads(notes["synthetic"])


def test_any_batch(made):
    model, path = made
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    for count in (1, 7):
        images = small_models.images(count, 16, seed=count)
        (found,) = session.run(["probabilities"], {"images": images.astype(np.float32) / 255})
        np.testing.assert_allclose(found, model.predict_probabilities(images), atol=1e-6)


def test_the_graph_is_made_of_layers(made):
    """No node for BatchNorm, and names that say where a node belongs."""
    graph = onnx.load(made[1]).graph
    assert {node.op_type for node in graph.node} <= {
        "Unsqueeze", "Mul", "Add", "Slice", "Conv", "Relu", "MaxPool", "Transpose", "Flatten", "Gemm", "Concat",
        "Softmax", "ReduceMean", "GlobalAveragePool",
    }  # fmt: skip
    assert any(node.name.startswith("network_0.conv_2.Conv") for node in graph.node)


def test_the_missing_package_is_named(made, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(
        UsageError, match=r"needs the packages onnx and onnxruntime: python -m pip install onnx onnxruntime"
    ):
        onnx_graph.build(made[0].networks, size=16, header=HEADER)


def test_an_unknown_segment_is_named(made, monkeypatch):
    monkeypatch.setattr(onnx_layers, "_SEGMENTS", {})
    with pytest.raises(UsageError, match="does not support ConvolutionBlock segments: use stablehlo"):
        onnx_graph.build(made[0].networks, size=16, header=HEADER)
