import collections
import io
import os
import pathlib
import pickle
import zipfile
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from bt_jax.common.errors import UsageError
from bt_jax.models.pretrained import torch_file

DTYPES = {
    "float32": np.float32,
    "float64": np.float64,
    "float16": np.float16,
    "bfloat16": ml_dtypes.bfloat16,
    "int64": np.int64,
    "uint8": np.uint8,
    "bool": np.bool_,
}


@pytest.mark.parametrize("name", ["legacy.pth", "zip.pth"])
def test_reads_what_pytorch_wrote(name: str, golden: pathlib.Path) -> None:
    tensors = torch_file.read(golden / "containers" / name)
    with np.load(golden / "containers" / "torch.npz") as expected:
        assert tensors.keys() == set(expected)
        for key, tensor in tensors.items():
            assert tensor.dtype == DTYPES.get(key, np.float32)
            assert tensor.shape == expected[key].shape
            np.testing.assert_array_equal(tensor.astype(np.float64), expected[key], err_msg=key)


@pytest.mark.parametrize("name", ["legacy.pth", "zip.pth"])
def test_a_file_cut_short_is_refused_at_every_length(name: str, golden: pathlib.Path, tmp_path: pathlib.Path) -> None:
    content = (golden / "containers" / name).read_bytes()
    path = tmp_path / "cut.pth"
    for length in range(0, len(content) - 1, 61):
        path.write_bytes(content[:length])
        with pytest.raises(UsageError, match=r"cut\.pth: .*damaged"):
            torch_file.read(path)


@pytest.mark.parametrize("name", ["legacy.pth", "zip.pth"])
def test_damage_never_escapes_as_another_error(name: str, golden: pathlib.Path, tmp_path: pathlib.Path) -> None:
    content = (golden / "containers" / name).read_bytes()
    path = tmp_path / "damaged.pth"
    generator = np.random.default_rng(0)
    for _ in range(300):
        damaged = bytearray(content)
        for position in generator.integers(len(content), size=4):
            damaged[position] = generator.integers(256)
        path.write_bytes(damaged)
        try:
            torch_file.read(path)
        except UsageError as error:
            assert str(path) in str(error)


def test_no_such_file(tmp_path: pathlib.Path) -> None:
    with pytest.raises(UsageError, match="no such file"):
        torch_file.read(tmp_path / "absent.pth")


class Command:
    """Runs a command where it is unpickled in the ordinary way."""

    def __init__(self, marker: pathlib.Path):
        self.marker = marker

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.marker}",)


@pytest.mark.parametrize("form", ["zip", "legacy"])
def test_a_malicious_pickle_is_not_run(form: str, tmp_path: pathlib.Path) -> None:
    marker, path = tmp_path / "was_run", tmp_path / "evil.pth"
    evil = collections.OrderedDict(weight=Command(marker))
    pickle.loads(pickle.dumps(evil))
    assert marker.exists()  # it does act elsewhere
    marker.unlink()
    write(path, evil, form)
    with pytest.raises(UsageError, match=r"evil\.pth: the file asks for (posix|nt)\.system"):
        torch_file.read(path)
    assert not marker.exists()


@pytest.mark.parametrize(
    "module_and_name", ["builtins eval", "torch._utils __import__", "torch load", "collections namedtuple"]
)
def test_other_globals_are_refused(module_and_name: str, tmp_path: pathlib.Path) -> None:
    path = tmp_path / "evil.pth"
    module, name = module_and_name.split()
    write_pickle(path, f"c{module}\n{name}\n(S'1'\ntR.".encode())
    with pytest.raises(UsageError, match=f"asks for {module}.{name}"):
        torch_file.read(path)


def test_a_pickle_cannot_alter_the_reader(tmp_path: pathlib.Path, golden: pathlib.Path) -> None:
    path = tmp_path / "evil.pth"
    # BUILD with a state for attributes on what find_class returned: would replace the function's defaults.
    write_pickle(path, b"ctorch._utils\n_rebuild_tensor_v2\n(N}S'__defaults__'\nS'x'\nstb.")
    with pytest.raises(UsageError, match="damaged"):
        torch_file.read(path)
    assert torch_file.read(golden / "containers" / "zip.pth")


@pytest.mark.parametrize(
    ("offset", "shape", "strides"),
    [(0, (5,), (1,)), (1, (4,), (1,)), (-1, (2,), (1,)), (0, (2,), (-1,)), (0, (2, 3), (2, 1)), (0, (2,), (1, 1))],
)
def test_views_out_of_bounds_are_refused(
    offset: int, shape: tuple[int, ...], strides: tuple[int, ...], tmp_path: pathlib.Path
) -> None:
    with pytest.raises(UsageError, match="damaged"):
        torch_file.read(one_tensor(tmp_path / "a.pth", offset, shape, strides))


def test_views_within_bounds(tmp_path: pathlib.Path) -> None:
    path = one_tensor(tmp_path / "a.pth", 1, (3,), (1,))
    np.testing.assert_array_equal(torch_file.read(path)["weight"], [1, 2, 3])
    path = one_tensor(tmp_path / "b.pth", 0, (2, 2), (1, 2))
    np.testing.assert_array_equal(torch_file.read(path)["weight"], [[0, 2], [1, 3]])
    # Without a copy, or this would need 4 TB.
    path = one_tensor(tmp_path / "c.pth", 3, (1 << 20, 1 << 20), (0, 0))
    assert torch_file.read(path)["weight"][5, 7] == 3


def test_big_endian_is_refused(tmp_path: pathlib.Path) -> None:
    with pytest.raises(UsageError, match="big-endian"):
        torch_file.read(one_tensor(tmp_path / "a.pth", 0, (4,), (1,), byteorder=b"big"))


def test_compressed_data_is_refused(tmp_path: pathlib.Path) -> None:
    path = one_tensor(tmp_path / "a.pth", 0, (4,), (1,), compression=zipfile.ZIP_DEFLATED)
    with pytest.raises(UsageError, match="damaged"):
        torch_file.read(path)


@pytest.mark.parametrize("content", [b"}.", b"]K\x01a.", b"}S'a'\nK\x01s."])
def test_no_tensors(content: bytes, tmp_path: pathlib.Path) -> None:
    write_pickle(tmp_path / "a.pth", content)
    with pytest.raises(UsageError, match=r"save model\.state_dict"):
        torch_file.read(tmp_path / "a.pth")


def one_tensor(
    path: pathlib.Path,
    offset: int,
    shape: tuple[int, ...],
    strides: tuple[int, ...],
    *,
    byteorder: bytes = b"little",
    compression: int = zipfile.ZIP_STORED,
) -> pathlib.Path:
    """A file with the tensor `weight`, a view of [0, 1, 2, 3]."""
    numbers = "".join(f"({''.join(f'I{value}' + chr(10) for value in values)}t" for values in (shape, strides))
    storage = "(S'storage'\nctorch\nFloatStorage\nS'0'\nS'cpu'\nI4\ntQ"
    content = f"}}S'weight'\nctorch._utils\n_rebuild_tensor_v2\n({storage}I{offset}\n{numbers}I00\n}}tRs."
    write_pickle(path, content.encode(), byteorder=byteorder, compression=compression)
    return path


def write_pickle(
    path: pathlib.Path, content: bytes, *, byteorder: bytes = b"little", compression: int = zipfile.ZIP_STORED
) -> None:
    with zipfile.ZipFile(path, "w", compression=compression) as archive:
        archive.writestr("archive/data.pkl", content)
        archive.writestr("archive/byteorder", byteorder, compress_type=zipfile.ZIP_STORED)
        archive.writestr("archive/data/0", np.arange(4, dtype=np.float32).tobytes())


def write(path: pathlib.Path, content: Any, form: str) -> None:
    if form == "zip":
        write_pickle(path, pickle.dumps(content, protocol=2))
        return
    buffer = io.BytesIO()
    for part in (torch_file._LEGACY_MAGIC, torch_file._LEGACY_PROTOCOL, {"little_endian": True}, content, []):
        pickle.dump(part, buffer, protocol=2)
    path.write_bytes(buffer.getvalue())
