"""Engines for ONNX files: which one runs, and files that are none."""

import importlib.util
import threading

import numpy as np
import onnx
import pytest

from bt_jax.common.errors import UsageError
from bt_jax.inference import onnx_engine

ENGINES = onnx_engine.ENGINES[1:]


def write_graph(path, *, name="images", shape=("batch", 6, 6)):
    """A graph that doubles what it takes."""
    helper, kind = onnx.helper, onnx.TensorProto.FLOAT
    graph = helper.make_graph(
        [helper.make_node("Add", [name, name], ["doubled"])],
        "double",
        [helper.make_tensor_value_info(name, kind, shape)],
        [helper.make_tensor_value_info("doubled", kind, shape)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    helper.set_model_props(model, {"a": "1", "long": "x" * 100_000})
    path.write_bytes(model.SerializeToString())
    return path


@pytest.mark.parametrize("engine", ENGINES)
def test_a_session_runs_any_batch_in_any_thread(tmp_path, engine):
    session = onnx_engine.open_session(write_graph(tmp_path / "a.onnx"), engine=engine)
    assert session.size == 6 and list(session.outputs) == ["doubled"]
    assert dict(session.metadata) == {"a": "1", "long": "x" * 100_000}
    assert session.engine.lower().replace(" ", "").startswith(engine)
    found = {}

    def run(number):
        images = np.full((number, 6, 6), number, np.float32)
        found[number] = [session.run(images, ["doubled"])[0] for _ in range(20)]

    threads = [threading.Thread(target=run, args=(number,)) for number in range(1, 6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number in range(1, 6):
        assert all((one == 2 * number).all() and one.shape == (number, 6, 6) for one in found[number])


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("content", [b"", b"\x08\x08", b"\x08\x08\x12\x06bt_jax", b"\x08" + bytes(range(256)), b"text"])
def test_damaged_files_are_one_line(tmp_path, engine, content):
    path = tmp_path / "a.onnx"
    path.write_bytes(content)
    with pytest.raises(UsageError, match=r"a\.onnx (is damaged, or not an ONNX file|holds no bt_jax model)") as caught:
        onnx_engine.open_session(path, engine=engine)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    "wrong", [{"name": "x"}, {"shape": ("batch", 3, 6, 6)}, {"shape": ("batch", 6, "wide")}], ids=str
)
def test_graphs_of_others_are_named(tmp_path, engine, wrong):
    path = write_graph(tmp_path / "a.onnx", **wrong)
    with pytest.raises(UsageError, match="holds no bt_jax model: use a file that"):
        onnx_engine.open_session(path, engine=engine)


def test_the_missing_package_is_named(tmp_path, monkeypatch):
    found = importlib.util.find_spec
    path = write_graph(tmp_path / "a.onnx")
    for missing, engine in ((ENGINES, "auto"), (("openvino",), "openvino"), (("onnxruntime",), "onnxruntime")):
        monkeypatch.setattr(importlib.util, "find_spec", lambda name, m=missing: None if name in m else found(name))
        package = "onnxruntime" if engine == "auto" else engine
        with pytest.raises(
            UsageError, match=f"an ONNX file needs the package {package}: python -m pip install {package}"
        ):
            onnx_engine.open_session(path, engine=engine)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "onnxruntime" else found(name))
    assert onnx_engine.open_session(path).engine.startswith("OpenVINO")
