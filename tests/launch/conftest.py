"""A checkout on a machine whose gcloud, kubectl, docker and sbatch are stand-ins."""

import pathlib

import pytest

from bt_jax.launch import commands
from tests.launch.clouds import Cloud


@pytest.fixture
def checkout(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    """A small checkout in the place of this one."""
    root = tmp_path / "a checkout"
    names = (
        "launch.sh",
        "bt_jax/data/sources.py",
        "configs/effnet.py",
        "data/image.png",
        "runs/old/run.json",
        ".git/HEAD",
    )
    for name in names:
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


@pytest.fixture
def site_packages(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    """A folder of installed packages in the place of the checkout; the current folder is another."""
    root, here = tmp_path / "site-packages", tmp_path / "here"
    (root / "bt_jax").mkdir(parents=True)
    here.mkdir()
    monkeypatch.setattr(commands, "ROOT", root)
    monkeypatch.chdir(here)
    return root
