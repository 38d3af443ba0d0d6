"""Workdirs and exported files that commit 286e963 wrote are read, and answer as they did then.

`tests/golden/workdirs_286e963.zip` holds two finished runs of dense networks on phantoms (`mlp`, and `mlp_folds`, a
cross-validation with two folds), files that `bt_jax.export` wrote, four images, and `answers.json`: the answers of
`bt_jax.predict` and `bt_jax.evaluate` at that commit for these images.
"""

import json
import pathlib
import sys
import zipfile
from typing import Any

import numpy as np
import pytest

from bt_jax.common.errors import UsageError
from bt_jax.inference import inputs, stream
from bt_jax.inference.predictor import Predictor
from bt_jax.serve import app
from bt_jax.serve.engine import Engine
from bt_jax.serve.model_page import ModelPage
from bt_jax.serve.settings import Settings
from bt_jax.training import start
from bt_jax.workdir.checkpoint import Checkpoints
from tests import multipart, runs

ARCHIVE = runs.ROOT / "tests" / "golden" / "workdirs_286e963.zip"
MODELS = ("mlp", "mlp_folds", "mlp.stablehlo", "mlp.safetensors", "effnet.safetensors")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    made = tmp_path_factory.mktemp("workdirs")
    with zipfile.ZipFile(ARCHIVE) as archive:
        archive.extractall(made)
    return made


@pytest.fixture(scope="module")
def answers(folder: pathlib.Path) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((folder / "answers.json").read_text())
    return loaded


def assert_same(found: list[dict[str, Any]], expected: list[dict[str, Any]]) -> None:
    assert [record["prediction"] for record in found] == [record["prediction"] for record in expected]
    for record, then in zip(found, expected, strict=True):
        assert list(record["probabilities"]) == list(then["probabilities"])
        np.testing.assert_allclose(
            list(record["probabilities"].values()), list(then["probabilities"].values()), rtol=0, atol=1e-5
        )


@pytest.mark.parametrize("name", MODELS)
def test_predict_answers_as_it_did(folder: pathlib.Path, answers: dict[str, Any], name: str) -> None:
    predictor = Predictor.load([str(folder / name)])
    files = inputs.expand([str(folder / "images" / "Testing")], left_out=pytest.fail)
    records = [record.to_dict() for batch in stream.predict(files, predictor, batch_size=4) for record in batch]
    found = {record["path"].partition("images/")[2]: record for record in records}
    expected = answers["predictions"][name]
    assert sorted(found) == sorted(record["path"] for record in expected)
    assert_same([found[record["path"]] for record in expected], expected)


@pytest.mark.parametrize("name", ["mlp", "mlp_folds"])
def test_serve_answers_as_it_did(folder: pathlib.Path, answers: dict[str, Any], name: str) -> None:
    engine = Engine(Predictor.load([str(folder / name)], batch_size=4), batch_size=4)
    engine.start()
    try:
        client = app.create(engine, Settings(), ModelPage(engine.predictor, [str(folder / name)])).test_client()
        expected = answers["predictions"][name]
        files = [(record["path"], (folder / "images" / record["path"]).read_bytes()) for record in expected]
        response = client.post("/api/predict", data=multipart.encoded(files), content_type=multipart.CONTENT_TYPE)
        assert response.status_code == 200
        assert_same(response.get_json()["records"], expected)
        card = client.get("/model")
        assert card.status_code == 200
    finally:
        engine.close()


@pytest.mark.parametrize("name", ["mlp", "mlp_folds"])
def test_evaluate_scores_as_it_did(
    folder: pathlib.Path, answers: dict[str, Any], name: str, tmp_path: pathlib.Path
) -> None:
    flags = [f"--model={folder / name}", f"--data={folder / 'images'}", f"--out={tmp_path}"]
    ended = runs.run([sys.executable, "-m", "bt_jax.evaluate", *flags])
    assert ended.returncode == 0, ended.stderr
    found = json.loads((tmp_path / "metrics.json").read_text())
    for field, value in answers["scores"][name].items():
        if isinstance(value, float):
            assert found[field] == pytest.approx(value, abs=1e-5), field
        else:
            assert found[field] == value, field


def test_its_training_is_not_resumed(folder: pathlib.Path) -> None:
    """Its optimiser had another form. The sentence says what can be done instead."""
    checkpoints = Checkpoints(folder / "mlp")
    assert checkpoints.latest_step is not None
    with pytest.raises(UsageError, match=r"mlp began with a version .* another --workdir, .*config\.model\.weights"):
        start.ResumedStart(checkpoints, checkpoints.latest_step)
    checkpoints.close()
