"""An installed package, outside of any clone: it holds all that the commands need, and they run in an empty folder."""

import fnmatch
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tomllib
import urllib.request

import pytest

from bt_jax.data.io.decode import encode_png
from bt_jax.data.phantoms import phantom

ROOT = pathlib.Path(__file__).parents[1]
SHORT = ["--config.stages.count=1", "--config.stages.epochs=1", "--config.data.phantoms_per_class=(24,4)"]


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> pathlib.Path:
    """A folder with what a wheel holds: all modules, and the other files that match the patterns of pyproject.toml."""
    patterns = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]["bt_jax"]
    site = tmp_path_factory.mktemp("installed")

    def leave_out(folder: str, names: list[str]) -> list[str]:
        inside = pathlib.Path(folder).relative_to(ROOT / "bt_jax")
        files = [name for name in names if (pathlib.Path(folder) / name).is_file() and not name.endswith(".py")]
        unmatched = [name for name in files if not any(fnmatch.fnmatch(str(inside / name), each) for each in patterns)]
        return [*unmatched, "__pycache__"]

    shutil.copytree(ROOT / "bt_jax", site / "bt_jax", ignore=leave_out)
    return site


@pytest.fixture(scope="module")
def start(installed, tmp_path_factory):
    """Starts a command of the installed package in an empty folder."""
    empty = tmp_path_factory.mktemp("empty")
    environment = {**os.environ, "PYTHONPATH": str(installed)}

    def start(*arguments: str, **options) -> subprocess.Popen:
        (empty / "scan.png").write_bytes(encode_png(phantom.render(1, label="no_tumor", seed=3).image))
        return subprocess.Popen(
            [sys.executable, "-m", *arguments], cwd=empty, env=environment, stdout=subprocess.PIPE, text=True, **options
        )

    return start


def test_every_file_of_the_package_is_installed(installed):
    listed = subprocess.run(
        ["git", "ls-files", "bt_jax", "configs"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    here = {path.relative_to(installed).as_posix() for path in (installed / "bt_jax").rglob("*") if path.is_file()}
    expected = {f"bt_jax/{name}" if name.startswith("configs/") else name for name in listed} - {"bt_jax/configs"}
    assert expected - here == set()


@pytest.mark.slow
def test_train_predict_and_serve_in_an_empty_folder(start):
    training = start("bt_jax.main", "--config=configs/mlp.py:demo", "--workdir=run", *SHORT)
    assert "report: run/report/model_card.md" in training.communicate()[0]
    assert training.returncode == 0
    record = json.loads(start("bt_jax.predict", "--model=run", "scan.png").communicate()[0])
    assert record["path"] == "scan.png" and "prediction" in record
    with start("bt_jax.serve", "--model=run", "--port=0") as server:
        try:
            address = server.stdout.readline().split(" at ")[1].split()[0]
            for page in ("", "model", "static/app.js", "openapi.json"):
                with urllib.request.urlopen(address + page, timeout=60) as answer:
                    assert answer.status == 200 and answer.read()
        finally:
            server.terminate()
            said, _ = server.communicate()
    assert (server.returncode, said) == (0, "stopped\n")
