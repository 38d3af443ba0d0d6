"""Engines for ONNX files: which one runs, and files that are none."""

import importlib.util
import pathlib
import subprocess
import sys
import threading

import numpy as np
import onnx
import pytest

from bt_jax.common.errors import UsageError
from bt_jax.inference import onnx_engine

ENGINES = onnx_engine.ENGINES[1:]


def write_graph(path, *, name="images", shape=("batch", 6, 6), kind=onnx.TensorProto.FLOAT):
    """A graph that doubles what it takes."""
    helper = onnx.helper
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
    with pytest.raises(UsageError, match=r"a\.onnx (cannot be run by|holds no bt_jax model)") as caught:
        onnx_engine.open_session(path, engine=engine)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    "wrong",
    [
        {"name": "x"},
        {"kind": onnx.TensorProto.DOUBLE},
        {"shape": (1, 6, 6)},
        {"shape": ("batch", 3, 6, 6)},
        {"shape": ("batch", 6, "wide")},
    ],
    ids=str,
)
def test_graphs_of_others_are_named(tmp_path, engine, wrong):
    path = write_graph(tmp_path / "a.onnx", **wrong)
    with pytest.raises(UsageError, match="holds no bt_jax model: use a file that"):
        onnx_engine.open_session(path, engine=engine)


def test_a_package_that_cannot_be_imported_is_named(tmp_path, monkeypatch):
    path = write_graph(tmp_path / "a.onnx")
    monkeypatch.syspath_prepend(tmp_path)
    for engine in ENGINES:
        (tmp_path / engine).mkdir()
        (tmp_path / engine / "__init__.py").write_text("raise ImportError('a library is missing')")
        monkeypatch.delitem(sys.modules, engine, raising=False)
        with pytest.raises(UsageError, match=f"the package {engine} cannot be imported: a library is missing"):
            onnx_engine.open_session(path, engine=engine)


def test_a_file_of_gigabytes_is_refused_unread(tmp_path):
    path = tmp_path / "a.onnx"
    with path.open("wb") as file:
        file.truncate(2**31)  # sparse
    with pytest.raises(UsageError, match=r"a\.onnx has more than 2 GiB"):
        onnx_engine.open_session(path)


@pytest.mark.skipif(sys.platform != "linux", reason="reads the threads of a process from Linux")
@pytest.mark.parametrize("engine", ENGINES)
def test_threads_stay_on_the_cores_of_the_process(tmp_path, engine):
    """In a process of its own, which may use one core."""
    path = write_graph(tmp_path / "a.onnx")
    script = f"""
import os, pathlib
core = min(os.sched_getaffinity(0))
os.sched_setaffinity(0, [core])
from bt_jax.inference import onnx_engine
session = onnx_engine.open_session(pathlib.Path({str(path)!r}), engine={engine!r})
used = {{cpu for task in os.listdir("/proc/self/task") for cpu in os.sched_getaffinity(int(task))}}
assert used == {{core}}, used
"""
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, encoding="utf-8", timeout=120)
    assert ended.returncode == 0, ended.stderr


def test_openvino_does_not_report_its_import(tmp_path):
    """Its telemetry package is not loaded, and can be imported afterwards."""
    path = write_graph(tmp_path / "a.onnx")
    script = f"""
import pathlib, sys
from bt_jax.inference import onnx_engine
onnx_engine.open_session(pathlib.Path({str(path)!r}), engine="openvino")
assert not [name for name in sys.modules if name.startswith("openvino_telemetry")]
from openvino.tools.ovc import telemetry_utils
assert telemetry_utils.tm.__name__.endswith("telemetry_stub")
import openvino_telemetry
"""
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, encoding="utf-8", timeout=120)
    assert ended.returncode == 0, ended.stderr


def test_the_flags_of_the_commands_offer_these_engines():
    """They are written out there, since --help must not wait for NumPy."""
    package = pathlib.Path(onnx_engine.__file__).parents[1]
    offered = [package / "predict.py", package / "evaluate.py", package / "serve" / "__main__.py"]
    listed = ", ".join(f'"{name}"' for name in onnx_engine.ENGINES)
    for path in offered:
        assert f'"engine", "{onnx_engine.AUTO}", [{listed}]' in path.read_text(encoding="utf-8"), path


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
