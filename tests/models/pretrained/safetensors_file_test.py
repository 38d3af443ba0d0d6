import pathlib

import ml_dtypes
import numpy as np
import pytest

from bt_jax.common.errors import UsageError
from bt_jax.models.pretrained import safetensors_file


def test_reads_what_safetensors_wrote(golden: pathlib.Path) -> None:
    path = golden / "containers" / "tiny.safetensors"
    tensors = safetensors_file.read(path)
    with np.load(golden / "containers" / "torch.npz") as expected:
        assert tensors.keys() == set(expected)
        for key, tensor in tensors.items():
            assert tensor.shape == expected[key].shape
            np.testing.assert_array_equal(tensor.astype(np.float64), expected[key], err_msg=key)
    assert tensors["bfloat16"].dtype == ml_dtypes.bfloat16
    assert tensors["float16"].dtype == np.float16
    assert safetensors_file.read_metadata(path) == {"format": "pt"}


def test_errors_name_the_file(golden: pathlib.Path, tmp_path: pathlib.Path) -> None:
    with pytest.raises(UsageError, match="no such file"):
        safetensors_file.read(tmp_path / "absent.safetensors")
    content = (golden / "containers" / "tiny.safetensors").read_bytes()
    for length in (0, 7, 100, len(content) - 1):
        (tmp_path / "cut.safetensors").write_bytes(content[:length])
        with pytest.raises(UsageError, match=r"cut\.safetensors: .*damaged"):
            safetensors_file.read(tmp_path / "cut.safetensors")
