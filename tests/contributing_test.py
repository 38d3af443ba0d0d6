"""CONTRIBUTING: the model that it adds is added to a copy of the project, and trains there."""

import pathlib
import re
import shutil
import subprocess
import sys

import pytest

from tests import runs

TEXT = (runs.ROOT / "CONTRIBUTING.md").read_text()
SECTION = TEXT.partition("## Add a model\n")[2].partition("\n## ")[0]


@pytest.fixture
def project(tmp_path: pathlib.Path) -> pathlib.Path:
    """A copy of the project with the model of the section in it."""
    module, line, configuration, row = re.findall(r"```python\n(.*?)```", SECTION, re.S)
    for name in ("bt_jax", "configs", "docs", "tests"):
        shutil.copytree(runs.ROOT / name, tmp_path / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(runs.ROOT / "pyproject.toml", tmp_path)
    (tmp_path / "bt_jax/models/linear.py").write_text(module)
    (tmp_path / "configs/linear.py").write_text(configuration)
    insert(tmp_path / "bt_jax/models/registry.py", line, after="ARCHITECTURES = {\n")
    insert(tmp_path / "bt_jax/models/registry.py", "linear, ", after="from bt_jax.models import ")
    insert(tmp_path / "tests/models/golden_test.py", row, after="PARAMETERS = {\n")
    return tmp_path


def insert(path: pathlib.Path, text: str, *, after: str) -> None:
    before = path.read_text(encoding="utf-8")
    assert before.count(after) == 1, f"{path.name} has no single {after!r}"
    path.write_text(before.replace(after, after + text), encoding="utf-8")


def run(project: pathlib.Path, *arguments: str) -> str:
    done = subprocess.run([sys.executable, *arguments], cwd=project, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_the_model_of_the_section_trains(project):
    fields = {"data.source": "phantoms", "data.phantoms_per_class": (25, 4), "stages.epochs": 2.0}
    settings = [f"--config.{name}={value}" for name, value in fields.items()]
    output = run(project, "-m", "bt_jax.main", "--config=configs/linear.py", "--workdir=run", *settings)
    assert "model: linear, 4,100 parameters, 32x32 pixels" in output
    assert (project / "run/report/model_card.md").exists()
    run(project, "-m", "pytest", "-q", "-k", "linear", "tests/models/golden_test.py", "tests/config_test.py")
