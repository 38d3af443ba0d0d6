"""ONNX files as trained models: the answers of the networks they were made from, without JAX."""

import base64
import json
import pathlib
import subprocess
import sys

import numpy as np
import onnx
import pytest

from bt_jax.common.errors import UsageError
from bt_jax.data.io.slices import Slice
from bt_jax.inference import convert, heat_map_files, loading, onnx_engine
from bt_jax.inference.predictor import Predictor
from bt_jax.inference.trained_model import TrainedModel
from bt_jax.metrics.selective import ConfidenceLimit
from tests import hostile_inputs, phantom_folder, small_models

ENGINES = onnx_engine.ENGINES[1:]
KINDS = {
    "linear head": ("vgg_nano", {"size": 40, "hidden": ()}),
    "hidden head, two networks": ("cnn", {"size": 24, "filters": (4, 6), "hidden": (5,), "members": 2}),
    "pixels": ("mlp", {"size": 70, "hidden": ()}),
    "mirrored": ("vgg_nano", {"size": 40, "hidden": (), "mirrored": True}),
    "mirrored pixels, two networks": ("mlp", {"size": 70, "hidden": (), "mirrored": True, "members": 2}),
}


def write(folder: pathlib.Path, name: str, **options: object) -> tuple[TrainedModel, pathlib.Path]:
    """A model with a temperature and OOD model, and its ONNX file."""
    model = small_models.write(folder / "model.safetensors", name, **options)  # type: ignore[arg-type]
    path = folder / "model.onnx"
    convert.write(path, model, form="onnx", images=small_models.images(3, model.preprocessing.size))
    return model, path


@pytest.fixture(scope="module", params=KINDS)
def each(request, tmp_path_factory) -> tuple[TrainedModel, pathlib.Path]:
    name, options = KINDS[request.param]
    return write(tmp_path_factory.mktemp("each"), name, **options)


@pytest.fixture(scope="module")
def linear(tmp_path_factory) -> tuple[TrainedModel, pathlib.Path]:
    """Mirrored too: its heat maps are those of the images themselves."""
    name, options = KINDS["mirrored"]
    return write(tmp_path_factory.mktemp("linear"), name, **options)


@pytest.mark.parametrize("engine", ENGINES)
def test_it_answers_like_the_networks(each, engine):
    model, path = each
    images = small_models.images(7, model.preprocessing.size, seed=5)
    found = loading.load(path, batch_size=3, engine=engine)
    expected, scores = model.predict(images)
    logits, found_scores = found.predict(images)
    np.testing.assert_allclose(logits, expected, atol=1e-5)
    np.testing.assert_allclose(found_scores, scores, rtol=1e-3)
    np.testing.assert_allclose(found.predict_probabilities(images), model.predict_probabilities(images), atol=1e-6)
    assert found.members == model.members == len(model.networks)
    assert (found.description, found.preprocessing, found.temperature) == (
        model.description, model.preprocessing, model.temperature
    )  # fmt: skip
    assert found.notice == model.notice and found.predict(images[:0]).logits.shape == (found.members, 0, 4)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_linear_head_has_the_heat_maps_of_grad_cam(linear, engine):
    model, path = linear
    ours, networks = (Predictor([one]) for one in (loading.load(path, engine=engine), model))
    assert ours.methods == ("gradcam",)
    image, largest = hostile_inputs.scan(61, 40), []
    for label in model.class_names:
        found, expected = (heat_map_files.explain_image(one, image, label=label) for one in (ours, networks))
        np.testing.assert_allclose(found.heat, expected.heat, atol=1e-4)
        assert found.method == expected.method == "gradcam"
        largest.append(expected.heat.max())
    assert max(largest) == 1


def test_other_heat_maps_need_the_networks(linear, tmp_path):
    predictor = Predictor([loading.load(linear[1])])
    with pytest.raises(UsageError, match=r"heat maps by layercam are not available .* or use the method gradcam"):
        heat_map_files.HeatMapFiles(tmp_path / "maps", predictor, method="layercam")
    name, options = KINDS["hidden head, two networks"]
    hidden = loading.load(write(tmp_path, name, **options)[1])
    assert hidden.methods == () and hidden.class_maps is None
    with pytest.raises(UsageError, match="heat maps by gradcam are not available from this file"):
        heat_map_files.HeatMapFiles(tmp_path / "maps", Predictor([hidden]))


def test_warnings_are_those_of_the_networks(tmp_path):
    """The confidence limit and the OOD model travel in the file."""
    model, path = write(tmp_path, *KINDS["pixels"][:1], **KINDS["pixels"][1])
    limit = ConfidenceLimit(value=0.999, accuracy=0.98, coverage=0.5, fitted_on="9 images", images=9)
    change_metadata(path, confidence_limit=json.dumps(vars(limit)))
    found = loading.load(path)
    assert found.confidence_limit == limit
    (answer,) = Predictor([found]).predict([Predictor([found]).prepare(Slice(hostile_inputs.scan()))])
    (expected,) = Predictor([model]).predict([Predictor([model]).prepare(Slice(hostile_inputs.scan()))])
    assert [str(one) for one in answer.warnings] == [
        *map(str, expected.warnings),
        "The confidence is below 100%. On images that were held out, 98.0% of the answers without such a warning were "
        "right.",
    ]
    assert answer.ood_score == pytest.approx(expected.ood_score, rel=1e-3)


def change_metadata(path: pathlib.Path, **changes: str | None) -> None:
    """Sets or removes entries of the metadata of an ONNX file."""
    content = onnx.load(path)
    entries = {entry.key: entry.value for entry in content.metadata_props} | changes
    del content.metadata_props[:]
    onnx.helper.set_model_props(content, {name: value for name, value in entries.items() if value is not None})
    onnx.save(content, path)


@pytest.mark.parametrize("engine", ENGINES)
def test_files_of_others_and_of_earlier_versions_are_refused(linear, tmp_path, engine):
    path = tmp_path / "model.onnx"
    path.write_bytes(linear[1].read_bytes())
    change_metadata(path, schema=None)
    with pytest.raises(UsageError, match="is of an earlier version of bt_jax: export the model again"):
        loading.load(path, engine=engine)
    change_metadata(path, class_names=None)
    with pytest.raises(UsageError, match="holds no bt_jax model: use a file that"):
        loading.load(path, engine=engine)
    path.write_bytes(linear[1].read_bytes())
    change_metadata(path, schema="99")
    with pytest.raises(UsageError, match="was written by another version of bt_jax"):
        loading.load(path, engine=engine)


@pytest.mark.parametrize(
    "changes",
    [
        {"doubts": "no base64"},
        {"doubts": base64.b64encode(b"no safetensors").decode()},
        {"doubts": None},
        {"preprocessing": "{"},
        {"preprocessing": "[]"},
        {"class_names": "3"},
        {"class_maps": '{"wide": 3}'},
        {"temperature": '{"value": 1}'},
        {"temperature": '{"value": 0, "fitted_on": "x", "images": 1, "step": 1}'},
        {"temperature": '{"value": "x", "fitted_on": "x", "images": 1, "step": 1}'},
        {"class_names": '["a", "b"]'},
        {"class_names": '["a", "a", "b", "c"]'},
        {"class_names": '"abcd"'},
        {"options": "[" * 100_000},
    ],
    ids=str,
)
def test_damaged_metadata_is_one_line(linear, tmp_path, changes):
    path = tmp_path / "model.onnx"
    path.write_bytes(linear[1].read_bytes())
    change_metadata(path, **changes)
    with pytest.raises(UsageError, match=r"model\.onnx is damaged, or bt_jax\.export did not write it"):
        loading.load(path)


def test_a_graph_that_does_not_fit_its_metadata_is_refused(linear, tmp_path):
    """Before it is used: a prediction would end with a traceback of the engine."""
    for name in ("features", "class_maps"):
        content = onnx.load(linear[1])
        (output,) = [one for one in content.graph.output if one.name == name]
        content.graph.output.remove(output)
        onnx.save(content, tmp_path / "model.onnx")
        with pytest.raises(UsageError, match=f"is damaged, .* the graph has no output {name}"):
            loading.load(tmp_path / "model.onnx")


def test_members_of_an_ensemble_without_ood_models_are_counted(tmp_path):
    model, path = write(tmp_path, "mlp", size=12, hidden=(4,), members=2, plain=True)
    found = loading.load(path)
    assert found.members == model.members == 2 and found.predict(small_models.images(0, 12)).logits.shape == (2, 0, 4)


def test_an_image_size_that_is_not_the_graphs(linear, tmp_path):
    path = tmp_path / "model.onnx"
    path.write_bytes(linear[1].read_bytes())
    change_metadata(path, preprocessing=json.dumps(linear[0].preprocessing.to_dict() | {"size": 32}))
    with pytest.raises(UsageError, match="is damaged: its graph takes images of 40 pixels, not 32"):
        loading.load(path)


def test_commands_answer_without_jax(linear, tmp_path):
    """JAX is made impossible to import; what the commands print is what the networks answer."""
    model, path = linear
    phantom_folder.write(tmp_path / "data", training_per_class=1, testing_per_class=2, seed=1)
    blocked = (
        "import runpy, sys\n"
        "for name in ('jax', 'jaxlib', 'flax', 'orbax', 'optax'):\n"
        "    sys.modules[name] = None\n"
        "runpy.run_module('bt_jax.' + sys.argv.pop(1), run_name='__main__', alter_sys=True)\n"
    )

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", blocked, *arguments, f"--model={path}"]
        ended = subprocess.run(command, capture_output=True, encoding="utf-8", timeout=120)
        assert ended.returncode == 0, ended.stderr
        return ended

    predicted = run("predict", str(tmp_path / "data" / "Testing"), f"--gradcam={tmp_path / 'maps'}")
    records = [json.loads(line) for line in predicted.stdout.splitlines()]
    expected = Predictor([model])
    assert len(records) == 8 == len(list((tmp_path / "maps").glob("*.npy")))
    from bt_jax.data.io import file_reader

    for record in records:
        (slice_,) = file_reader.read_slices(pathlib.Path(record["path"]).read_bytes())
        (answer,) = expected.predict([expected.prepare(slice_)])
        assert record["prediction"] == answer.label
        assert record["confidence"] == pytest.approx(answer.confidence, abs=1e-5)
    run("evaluate", f"--data={tmp_path / 'data'}", f"--out={tmp_path / 'scores'}")
    assert json.loads((tmp_path / "scores" / "metrics.json").read_bytes())["n"] == 8
