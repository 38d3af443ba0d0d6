"""docs/quickstart.ipynb: its cells run in a kernel, install what is missing, and hold no outputs."""

import base64
import io
import json
import pathlib
import re
import types

import nbclient
import nbformat
import numpy as np
import pytest
from IPython.core.inputtransformer2 import TransformerManager
from PIL import Image

from bt_jax.data.class_labels import BRAIN_TUMOR_CLASSES
from tests import phantom_folder, runs

NOTEBOOK = runs.ROOT / "docs" / "quickstart.ipynb"
# Without a hidden block, so that some image has heat after a moment of training.
FIELDS = {**runs.FIELDS, "model.hidden": (), "stages.count": 1, "stages.head_epochs": 2.0, "data.folds": 2}
FIELDS["eval.examples"] = 2
FIELDS_OF = {"demo": FIELDS, "cpu": {name: value for name, value in FIELDS.items() if "phantoms" not in name}}
# What the last cells computed, as JSON.
SHOW = """
import json
print(json.dumps({
    "probabilities": [list(prediction.probabilities.values()) for prediction in predictions],
    "files": [file.name for file in chosen],
}))
"""


def read_notebook() -> nbformat.NotebookNode:
    return nbformat.read(NOTEBOOK, as_version=4)


def find_cell(notebook: nbformat.NotebookNode, code: str) -> nbformat.NotebookNode:
    """The only cell of code that contains these words."""
    (cell,) = [cell for cell in notebook.cells if cell.cell_type == "code" and code in cell.source]
    return cell


def join_text(cell: nbformat.NotebookNode) -> str:
    """What a cell printed."""
    return "".join(output.text for output in cell.outputs if output.output_type == "stream")


def read_pictures(cell: nbformat.NotebookNode) -> list[np.ndarray]:
    """The pictures that a cell showed, [H, W, 3] uint8."""
    shown = [output.data["image/png"] for output in cell.outputs if "image/png" in output.get("data", {})]
    return [np.asarray(Image.open(io.BytesIO(base64.b64decode(png))).convert("RGB")) for png in shown]


def test_it_is_a_notebook_without_outputs_that_says_what_it_is_not():
    notebook = read_notebook()
    nbformat.validate(notebook)
    for cell in notebook.cells:
        assert not cell.get("outputs") and cell.get("execution_count") is None
    prose = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    assert prose.count("not a medical device") == 1
    for target in re.findall(r"\]\(([^)\s]+)\)", prose):
        assert (NOTEBOOK.parent / target).is_file(), target
    for path, variant in re.findall(r"\b(configs/\w+\.py):(\w+)", NOTEBOOK.read_text(encoding="utf-8")):
        assert runs.load_configuration(pathlib.Path(path).stem).get_config(variant)


@pytest.mark.parametrize(
    ("installed", "graphics", "installs"),
    [
        (True, None, []),
        (False, None, ['install --quiet "bt-jax @ git+https://github.com/OWNER/bt_jax"']),
        (False, "/usr/bin/nvidia-smi", ['install --quiet "bt-jax[cuda12] @ git+https://github.com/OWNER/bt_jax"']),
    ],
)
def test_it_installs_only_what_is_missing(monkeypatch, installed, graphics, installs):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object() if installed else None)
    monkeypatch.setattr("shutil.which", lambda name: graphics)
    asked = []
    source = TransformerManager().transform_cell(find_cell(read_notebook(), "%pip").source)
    names = {}

    def run_line_magic(magic: str, line: str) -> None:
        asked.append(f"{magic} {line.format(**names)}")  # IPython fills in the names

    names["get_ipython"] = lambda: types.SimpleNamespace(run_line_magic=run_line_magic)
    exec(source, names)
    assert asked == [f"pip {line}" for line in installs]


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["demo", "cpu"])
def test_it_trains_reports_predicts_and_explains(monkeypatch, tmp_path, variant):
    for name in ("IPYTHONDIR", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "MPLCONFIGDIR"):
        monkeypatch.setenv(name, str(tmp_path / "home"))
    monkeypatch.setenv("PYTHONPATH", str(runs.ROOT))
    monkeypatch.delenv("BT_DATA", raising=False)
    if variant == "cpu":
        phantom_folder.write(tmp_path / "images", training_per_class=25, testing_per_class=4, seed=0)
        monkeypatch.setenv("BT_DATA", str(tmp_path / "images"))
    notebook = read_notebook()
    short = [f"--config.{name}={value}" for name, value in FIELDS_OF[variant].items()]
    find_cell(notebook, "fields = []").source += f"\nfields += {short}"
    notebook.cells.append(nbformat.v4.new_code_cell(SHOW))

    nbclient.NotebookClient(
        notebook, timeout=500, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    ).execute()

    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            assert output.output_type != "stream" or output.name == "stdout", output.text
    assert not find_cell(notebook, "%pip").outputs
    source = f"{tmp_path}/images" if variant == "cpu" else "built-in phantoms"
    assert join_text(find_cell(notebook, "fields = []")) == f"images: {source}\n"
    assert "report: runs/quickstart/report/model_card.md" in join_text(find_cell(notebook, "bt_jax.main"))

    report = find_cell(notebook, "model_card.md")
    (headline,) = [
        output.data["text/markdown"] for output in report.outputs if "text/markdown" in output.get("data", {})
    ]
    card = (tmp_path / "runs/quickstart/report/model_card.md").read_text()
    assert headline in card and "accuracy" in headline and "not a medical device" in headline
    assert len(read_pictures(report)) == 4  # curves, heat maps, two confusion matrices

    shown = json.loads(join_text(notebook.cells[-1]))
    assert len(shown["files"]) == 8
    assert all(("/Testing/" if variant == "cpu" else "runs/quickstart/examples/") in name for name in shown["files"])
    assert np.shape(shown["probabilities"]) == (len(shown["files"]), len(BRAIN_TUMOR_CLASSES))
    np.testing.assert_allclose(np.sum(shown["probabilities"], axis=1), 1, atol=1e-6)
    lines = join_text(find_cell(notebook, "bt_jax.load")).splitlines()
    assert sum(", probability 0." in line or ", probability 1." in line for line in lines) == len(shown["files"])

    (picture,) = read_pictures(find_cell(notebook, "heat_map("))
    colourful = np.ptp(picture.astype(int), axis=2) > 60  # [H, W]
    upper, lower = np.array_split(colourful, 2)
    assert not upper.any() and lower.mean() > 0.001
