"""The interface for Python programs: the records and heat maps of the commands, from paths, bytes and arrays."""

import json
import pathlib
import re
import sys

import numpy as np
import pytest

import bt_jax
from bt_jax.common.errors import UsageError
from bt_jax.data.io.decode import encode_png
from bt_jax.data.io.slices import UnreadableError
from bt_jax.inference import heat_map, shipped_model
from tests import hostile_inputs, medical_files, runs, small_models, untrained

PAGE = runs.ROOT / "docs" / "inference.md"


@pytest.fixture(scope="module")
def workdir(tmp_path_factory) -> pathlib.Path:
    return untrained.write(tmp_path_factory.mktemp("model") / "run", seed=3)


@pytest.fixture(scope="module")
def model(workdir):
    return bt_jax.load(workdir)


def test_records_are_those_of_the_command(model, workdir, tmp_path):
    (tmp_path / "scan.png").write_bytes(hostile_inputs.image())
    (tmp_path / "broken.png").write_bytes(b"broken")
    (tmp_path / "two.dcm").write_bytes(medical_files.dicom(np.stack([hostile_inputs.scan()] * 2), frames=2))
    ended = runs.run([sys.executable, "-m", "bt_jax.predict", f"--model={workdir}", str(tmp_path)])
    expected = [json.loads(line) for line in ended.stdout.splitlines()]
    assert len(expected) == 4
    assert [record.to_dict() for record in model.predict(str(tmp_path))] == expected
    assert [record.to_dict() for record in model.predict(path for path in sorted(tmp_path.iterdir()))] == expected


def test_paths_bytes_and_arrays_have_the_same_answer(model, tmp_path):
    image = hostile_inputs.scan()
    (tmp_path / "scan.png").write_bytes(encode_png(image))
    records = model.predict([tmp_path / "scan.png", encode_png(image), image])
    assert [record.path for record in records] == [str(tmp_path / "scan.png"), "bytes 2", "array 3"]
    first, *others = (record.outcome.probabilities for record in records)
    for other in others:
        assert other == pytest.approx(first, abs=1e-6)
    (alone,) = model.predict(image)
    assert alone.outcome.label == records[0].outcome.label and tuple(first) == model.classes
    assert model.predict([]) == []


def test_what_is_left_out_is_a_warning(model, tmp_path):
    (tmp_path / "scan.png").write_bytes(hostile_inputs.image())
    (tmp_path / "notes.txt").write_text("none")
    with pytest.warns(UserWarning, match="skipped 1 files"):
        assert len(model.predict(tmp_path)) == 1


@pytest.mark.parametrize("source", [np.zeros((4, 4, 3), np.uint8), np.zeros((4, 4)), 7, None])
def test_other_sources_are_refused(model, source):
    with pytest.raises(TypeError, match=r"an array must be a grey image|a source must be a path, bytes or an array"):
        model.predict([source])


def test_a_heat_map_of_the_predicted_class_or_another(model):
    image = hostile_inputs.scan()
    found = model.heat_map(image)
    assert found.label == model.predict(image)[0].outcome.label and found.method == "integrated_gradients"
    assert found.heat.shape == image.shape and 0 <= found.heat.min() <= found.heat.max() <= 1
    np.testing.assert_array_equal(found.image, image)
    np.testing.assert_array_equal(found.draw(), heat_map.overlay(image, found.heat))
    other = model.heat_map(encode_png(image), label="no_tumor")
    assert other.label == "no_tumor"


def test_a_heat_map_of_a_slice(model):
    frames = np.stack([hostile_inputs.scan(), hostile_inputs.scan()[::-1]])
    content = medical_files.dicom(frames, frames=2)
    first, second = (model.heat_map(content, label="no_tumor", number=number).image for number in (1, 2))
    np.testing.assert_array_equal(first, second[::-1])
    with pytest.raises(UnreadableError, match="has no slice 3"):
        model.heat_map(content, number=3)


def test_what_a_heat_map_cannot_be_of(model, tmp_path):
    (tmp_path / "a.png").write_bytes(hostile_inputs.image())
    (tmp_path / "b.png").write_bytes(hostile_inputs.image())
    with pytest.raises(UnreadableError, match="it stands for 2 files"):
        model.heat_map(tmp_path)
    with pytest.raises(UnreadableError, match="there is no such file"):
        model.heat_map(tmp_path / "c.png")
    with pytest.raises(ValueError, match="label is 'cyst': use one of glioma_tumor, "):
        model.heat_map(tmp_path / "a.png", label="cyst")
    with pytest.raises(ValueError, match="method is 'rise': use one of gradcam, "):
        model.heat_map(tmp_path / "a.png", method="rise")


def test_several_are_an_ensemble_and_what_is_none_is_said(workdir, tmp_path):
    small_models.write(tmp_path / "net.safetensors", "mlp", size=32, hidden=(4,), channels=1, plain=True)
    both = bt_jax.load(workdir, tmp_path / "net.safetensors", views=2, batch_size=4)
    assert len(both.predictor.models) == 2 and both.predictor.views == 2
    with pytest.raises(UsageError, match="holds no checkpoint"):
        bt_jax.load(tmp_path)


def test_without_a_name_it_is_the_model_that_ships(workdir, monkeypatch):
    monkeypatch.setattr(shipped_model, "choose", lambda models: [str(workdir)] if models == [] else 1 / 0)
    assert len(bt_jax.load().predictor.models) == 1


def test_the_documented_lines_run(workdir, tmp_path, monkeypatch, capsys):
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    (tmp_path / "series").mkdir()
    for name in ("scan.png", "series/1.png"):
        (tmp_path / name).write_bytes(hostile_inputs.image())
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "first").symlink_to(workdir)
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    exec(code, names)
    assert capsys.readouterr().out.count("'prediction'") == 2
    assert names["picture"].ndim == 3 and names["picture"].dtype == np.uint8
