"""Reads safetensors files."""

import pathlib

import ml_dtypes  # noqa: F401  (registers bfloat16 with NumPy)
import numpy as np
import safetensors

from bt_jax.common.errors import UsageError
from bt_jax.common.files import Path


def read(path: Path) -> dict[str, np.ndarray]:
    """Reads all tensors by name, in the file's dtype and shape.

    Raises:
      UsageError: there is no such file or it is damaged.
    """
    with _open(path) as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def read_metadata(path: Path) -> dict[str, str]:
    """Reads the strings in the file's header.

    Raises:
      UsageError: there is no such file or it is damaged.
    """
    with _open(path) as file:
        return dict(file.metadata() or {})


def _open(path: Path) -> safetensors.safe_open:
    path = pathlib.Path(path)
    if not path.is_file():
        raise UsageError(f"{path}: there is no such file")
    try:
        return safetensors.safe_open(path, framework="numpy")
    except safetensors.SafetensorError as error:
        raise UsageError(f"{path}: not a safetensors file, or damaged ({error}); fetch it again") from error
