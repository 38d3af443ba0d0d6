"""An encrypted zip as data or input: one sentence from every command that reads images."""

import sys

import pytest

from bt_jax.data.io.decode import encode_png
from tests import encrypted_zip, hostile_inputs, runs


@pytest.mark.parametrize("command", ["audit", "prepare"])
def test_commands_refuse_encrypted_data_in_one_line(tmp_path, command):
    picture = encode_png(hostile_inputs.scan())
    names = [
        f"{split}/{label}/{number}.png" for split in ("Training", "Testing") for label in "ab" for number in range(9)
    ]
    path = encrypted_zip.write(tmp_path / "data.zip", dict.fromkeys(names, picture))
    ended = runs.run([sys.executable, "-m", f"bt_jax.{command}", f"--data={path}", f"--out={tmp_path / 'out'}"])
    assert ended.returncode == 2
    line = f"error: {path} is encrypted: unpack it with its password, and give the folder"
    assert ended.stderr.splitlines()[-1] == line
