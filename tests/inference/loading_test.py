"""What a path holds, and what computes it."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bt_jax.common.errors import UsageError
from bt_jax.inference import heat_map, loading
from tests import small_models


@given(st.integers(0, 2**20).map(lambda number: 256 * number + 8))
def test_a_safetensors_file_is_never_taken_for_onnx(tmp_path_factory, length):
    path = tmp_path_factory.mktemp("a") / "model.safetensors"
    path.write_bytes(struct.pack("<Q", length) + b"{}")
    assert not loading.is_onnx(path)


def test_onnx_files_are_recognised_by_content_or_name(tmp_path):
    for name, content, expected in (
        ("a.onnx", b"", True),
        ("a.bin", b"\x08\x08\x12\x06bt_jax", True),
        ("a.zip", b"PK\x03\x04", False),
        ("a", b"", False),
    ):
        (tmp_path / name).write_bytes(content)
        assert loading.is_onnx(tmp_path / name) == expected
    assert not loading.is_onnx(tmp_path) and not loading.is_onnx(tmp_path / "missing.onnx")


def test_an_engine_is_for_onnx_files(tmp_path):
    model = small_models.write(tmp_path / "m.safetensors", "mlp", size=8, hidden=(), plain=True)
    assert model.engine == "JAX" and model.methods == heat_map.METHODS
    path = tmp_path / "m.safetensors"
    with pytest.raises(UsageError, match=r"--engine=openvino runs ONNX files, and --model names none"):
        loading.check_engine("openvino", [path])
    (tmp_path / "a.onnx").write_bytes(b"")
    loading.check_engine("openvino", [path, tmp_path / "a.onnx"])  # one of an ensemble is enough
    loading.check_engine("auto", [path])


def test_a_missing_onnx_file_is_named_at_once(tmp_path):
    (tmp_path / "folder.onnx").mkdir()
    for name in ("missing.onnx", "folder.onnx"):
        with pytest.raises(UsageError, match=rf"{name} is not a file: give --model an exported file"):
            loading.load(tmp_path / name)
