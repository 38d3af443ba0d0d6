"""Reads the tensors of a PyTorch file without PyTorch and without executing code in the file.

A `.pth` file is a pickle, which can call anything that it names. This unpickler accepts only the few names that a
dictionary of tensors needs, none of which has side effects, and checks every size and offset against the data.
"""

import dataclasses
import pathlib
import pickle
import struct
import sys
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from typing import IO, Any, NoReturn

import ml_dtypes
import numpy as np

from bt_jax.common.errors import UsageError
from bt_jax.common.files import Path

# The format of PyTorch before 1.6 starts with these two pickles.
_LEGACY_MAGIC, _LEGACY_PROTOCOL = 0x1950A86A20F9469CFC6C, 1001

_DTYPES = {
    "FloatStorage": np.dtype(np.float32),
    "DoubleStorage": np.dtype(np.float64),
    "HalfStorage": np.dtype(np.float16),
    "BFloat16Storage": np.dtype(ml_dtypes.bfloat16),
    "LongStorage": np.dtype(np.int64),
    "IntStorage": np.dtype(np.int32),
    "ShortStorage": np.dtype(np.int16),
    "CharStorage": np.dtype(np.int8),
    "ByteStorage": np.dtype(np.uint8),
    "BoolStorage": np.dtype(np.bool_),
}

# Training scripts save the weights under these keys, beside the optimiser and the epoch.
_WRAPPERS = ("state_dict", "model")


@dataclasses.dataclass
class _Storage:
    """A flat array of numbers that tensors are views of."""

    dtype: np.dtype
    count: int
    values: np.ndarray | None = None  # [count], read after the pickle


@dataclasses.dataclass(frozen=True)
class _Tensor:
    """A strided view of a storage; all numbers count elements."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def to_array(self) -> np.ndarray:
        values = self.storage.values
        if values is None:
            raise ValueError("a tensor has no data")
        integers = (self.offset, *self.shape, *self.strides)
        if len(self.shape) != len(self.strides) or not all(type(number) is int and number >= 0 for number in integers):
            raise ValueError("a tensor's shape and strides make no sense")
        last = self.offset + sum((size - 1) * stride for size, stride in zip(self.shape, self.strides, strict=True))
        if 0 not in self.shape and last >= len(values):
            raise ValueError("a tensor reaches beyond its data")
        if 0 in self.shape:
            return np.empty(self.shape, values.dtype)
        # A view, never a copy: a stride of 0 must not expand a small file.
        return np.lib.stride_tricks.as_strided(
            values[self.offset :],
            self.shape,
            [stride * values.itemsize for stride in self.strides],
            writeable=False,
        )


class _Unpickler(pickle.Unpickler):
    """An unpickler for dictionaries, lists, numbers, strings and `_Tensor`; it refuses any other name."""

    def __init__(self, file: IO[bytes], path: pathlib.Path):
        super().__init__(file, encoding="utf-8")
        self._path = path
        self.storages: dict[str, _Storage] = {}

    def find_class(self, module: str, name: str) -> Any:
        # A pickle can alter functions and classes (opcode BUILD), but not bound methods and strings.
        allowed: dict[tuple[str, str], Any] = {
            ("collections", "OrderedDict"): OrderedDict,
            ("torch._utils", "_rebuild_tensor_v2"): self._tensor,
            ("torch._utils", "_rebuild_parameter"): self._make_parameter,
        }
        if (module, name) in allowed:
            return allowed[module, name]
        if module == "torch" and name in _DTYPES:
            return name
        raise UsageError(
            f"{self._path}: the file asks for {module}.{name}, which a file of weights does not need and which is not "
            "run here; save the bare state_dict, best as safetensors"
        )

    def persistent_load(self, reference: Any) -> _Storage:
        kind, dtype, key, _location, count, *view = reference
        if kind != "storage" or (view and view[0] is not None) or type(count) is not int or count < 0:
            raise ValueError("a reference to data makes no sense")
        storage = self.storages.setdefault(str(key), _Storage(_DTYPES[dtype], count))
        if storage.dtype != _DTYPES[dtype] or storage.count != count:
            raise ValueError("two references to the same data disagree")
        return storage

    def _tensor(self, storage: Any, offset: Any, shape: Any, strides: Any, *_unused: Any) -> _Tensor:
        if not isinstance(storage, _Storage):
            raise ValueError("a tensor has no data")
        return _Tensor(storage, offset, tuple(shape), tuple(strides))

    def _make_parameter(self, tensor: Any, *_unused: Any) -> Any:
        return tensor


def read(path: Path) -> dict[str, np.ndarray]:
    """Reads a `.pth`, `.pt` or `.bin` file of PyTorch, in the zip format or the one before 1.6.

    A dictionary below `state_dict` or `model` and the prefix `module.` of data-parallel training are unwrapped.

    Returns:
      Arrays by name, in the file's dtype (bfloat16 by `ml_dtypes`) and shape; read-only.

    Raises:
      UsageError: there is no such file, it is damaged, or it needs anything but tensors.
    """
    path = pathlib.Path(path)
    if not path.is_file():
        raise UsageError(f"{path}: there is no such file")
    try:
        content = _read_zip(path) if zipfile.is_zipfile(path) else _read_legacy(path)
        return _extract_arrays(content, path)
    except UsageError:
        raise
    # A hostile or damaged pickle can raise anything, as the documentation of `pickle` says.
    except Exception as error:
        reason = str(error) or type(error).__name__
        raise UsageError(f"{path}: not a PyTorch file of weights, or damaged ({reason}); fetch it again") from error


def _read_zip(path: pathlib.Path) -> Any:
    with zipfile.ZipFile(path) as archive:
        pickles = [name for name in archive.namelist() if name == "data.pkl" or name.endswith("/data.pkl")]
        if len(pickles) != 1:
            raise ValueError("no data.pkl in the archive")
        root = pickles[0].removesuffix("data.pkl")
        if f"{root}byteorder" in archive.namelist() and _read_entry(archive, f"{root}byteorder", limit=16) != b"little":
            _refuse_big_endian(path)
        with archive.open(pickles[0]) as file:
            unpickler = _Unpickler(file, path)
            content = unpickler.load()
        for key, storage in unpickler.storages.items():
            data = _read_entry(archive, f"{root}data/{key}", limit=storage.count * storage.dtype.itemsize)
            _fill(storage, data)
    return content


def _read_entry(archive: zipfile.ZipFile, name: str, *, limit: int) -> bytes:
    """Reads an entry of the archive. PyTorch never compresses, so an entry that unpacks to more is refused."""
    entry = archive.getinfo(name)
    if entry.compress_type != zipfile.ZIP_STORED or entry.file_size > limit:
        raise ValueError(f"{name} is larger than it should be")
    return archive.read(entry)


def _read_legacy(path: pathlib.Path) -> Any:
    with path.open("rb") as file:
        if _Unpickler(file, path).load() != _LEGACY_MAGIC or _Unpickler(file, path).load() != _LEGACY_PROTOCOL:
            raise ValueError("the first bytes are not PyTorch's")
        if not _Unpickler(file, path).load()["little_endian"]:
            _refuse_big_endian(path)
        unpickler = _Unpickler(file, path)
        content = unpickler.load()
        size = path.stat().st_size
        for key in _Unpickler(file, path).load():
            storage = unpickler.storages[key]
            (count,) = struct.unpack("<q", file.read(8))
            length = storage.count * storage.dtype.itemsize
            if count != storage.count or length > size - file.tell():
                raise ValueError("the file ends early")
            _fill(storage, file.read(length))
    return content


def _fill(storage: _Storage, data: bytes) -> None:
    if len(data) != storage.count * storage.dtype.itemsize:
        raise ValueError("the file ends early")
    storage.values = np.frombuffer(data, storage.dtype)


def _refuse_big_endian(path: pathlib.Path) -> NoReturn:
    raise UsageError(f"{path}: written on a big-endian machine; save it again on a {sys.byteorder}-endian one")


def _extract_arrays(content: Any, path: pathlib.Path) -> dict[str, np.ndarray]:
    for wrapper in _WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
    if not isinstance(content, Mapping) or not content:
        raise UsageError(f"{path}: does not hold a dictionary of tensors; save model.state_dict()")
    prefix = "module." if all(str(name).startswith("module.") for name in content) else ""
    arrays = {}
    for name, tensor in content.items():
        if not isinstance(name, str) or not isinstance(tensor, _Tensor):
            raise UsageError(f"{path}: {name!r} is not a tensor; save model.state_dict()")
        arrays[name.removeprefix(prefix)] = tensor.to_array()
    return arrays
