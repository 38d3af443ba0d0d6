"""A checkout on a machine whose gcloud, kubectl, docker and sbatch are stand-ins."""

import pathlib

import pytest

from bt_jax.launch import commands
from tests.launch.clouds import Cloud


@pytest.fixture
def checkout(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    """A small checkout in the place of this one."""
    root = tmp_path / "a checkout"
    for name in ("bt_jax/data/sources.py", "configs/effnet.py", "data/image.png", "runs/old/run.json", ".git/HEAD"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name)
    monkeypatch.setattr(commands, "ROOT", root)
    return root


@pytest.fixture
def cloud(tmp_path: pathlib.Path, checkout: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> Cloud:
    """The stand-ins, first on the PATH."""
    found = Cloud(tmp_path / "cloud")
    monkeypatch.setenv("PATH", f"{found.programs}:/usr/bin:/bin")
    return found
