"""Heat maps of a predictor on the images themselves, and their files."""

import csv
import dataclasses
import pathlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from bt_jax.common.errors import UsageError
from bt_jax.data.io.slices import Slice
from bt_jax.inference import heat_map_files, loading
from bt_jax.inference.predictor import Predictor, PreparedSlice
from tests import hostile_inputs, small_models, untrained


@pytest.fixture(scope="module")
def predictor(tmp_path_factory) -> Predictor:
    """A small network with maps, and a dense one that sees the whole frame."""
    folder = tmp_path_factory.mktemp("explanations")
    small_models.write(folder / "net.safetensors", "cnn", size=32, filters=(4, 6), hidden=(5,), plain=True)
    return Predictor([loading.load(folder / "net.safetensors", batch_size=4)])


def prepared(predictor: Predictor, image: np.ndarray) -> PreparedSlice:
    return dataclasses.replace(predictor.prepare(Slice(image)), origin=image)


@pytest.mark.parametrize("shape", [(48, 64), (64, 48), (201, 80)])
def test_heat_lies_on_the_pixels_of_the_image(predictor, shape):
    image = hostile_inputs.scan(*shape)
    found = heat_map_files.explain_image(predictor, image, label="no_tumor")
    assert found.heat.shape == shape and found.heat.dtype == np.float32
    assert found.heat.min() >= 0 and found.heat.max() in (0, 1)
    assert (found.label, found.method) == ("no_tumor", "gradcam")


def test_what_the_network_does_not_see_has_no_heat(predictor):
    """A head in the corner of a wide black frame: the rest of the frame is cropped away."""
    image = np.zeros((100, 200), np.uint8)
    image[10:58, 10:74] = hostile_inputs.scan()
    for label in predictor.class_names:
        heat = heat_map_files.explain_image(predictor, image, label=label).heat
        assert not heat[:, 110:].any()


def test_several_models_have_the_mean(predictor, tmp_path):
    image = hostile_inputs.scan()
    dense = loading.load(untrained.write(tmp_path / "dense", form="stretch"), batch_size=4)
    both = Predictor([*predictor.models, dense])
    parts = [heat_map_files.explain_image(one, image, label="glioma_tumor") for one in (predictor, Predictor([dense]))]
    mean = sum(part.heat for part in parts)
    found = heat_map_files.explain_image(both, image, label="glioma_tumor")
    np.testing.assert_allclose(found.heat, mean / mean.max(), atol=1e-5)
    assert found.method == "gradcam+integrated_gradients"


def test_files_of_slices_and_their_index(predictor, tmp_path):
    out = heat_map_files.HeatMapFiles(tmp_path / "made" / "maps", predictor)
    paths = ["a/scan.png", "b/scan.png", "volume.nii#3", "../../etc/passwd", "C:\\x\\año\n.png", "..", "\udcff.png"]
    image = (hostile_inputs.scan().astype(np.uint16) * 200)[:, ::2]
    for path in paths:
        (prediction,) = predictor.predict([predictor.prepare(Slice(image))])
        out.write(path, prepared(predictor, image), prediction)
    out.write_index()
    with (tmp_path / "made/maps/index.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["path"] for row in rows] == [*paths[:-1], "\\udcff.png"]
    names = {row[kind] for row in rows for kind in ("overlay", "array")}
    assert len(names) == 2 * len(paths)
    assert {path.name for path in (tmp_path / "made/maps").iterdir()} == {*names, "index.csv"}
    assert [path.name for path in tmp_path.iterdir()] == ["made"]
    for row in rows:
        heat = np.load(tmp_path / "made/maps" / row["array"])
        with Image.open(tmp_path / "made/maps" / row["overlay"]) as overlay:
            assert overlay.mode == "RGB" and overlay.size == image.shape[::-1]
        assert heat.shape == image.shape and heat.dtype == np.float32
        assert row["class"] in predictor.class_names and row["method"] == "gradcam"


@given(st.text(st.characters(), max_size=200), st.text(st.characters(), max_size=200))
def test_names_stay_in_their_folder_and_differ_with_the_path(a, b):
    for path in (a, b):
        name = heat_map_files.make_file_name(path)
        assert pathlib.PurePath(name).name == name and not name.startswith((".", "-")) and len(name) < 120
        assert name.isascii() and name.isprintable() and not set(name) & set("/\\:*?\"<>| '")
    assert (heat_map_files.make_file_name(a) == heat_map_files.make_file_name(b)) == (a == b)


def test_a_program_cannot_be_looked_into(predictor, tmp_path):
    (model,) = predictor.models
    program = Predictor([model, dataclasses.replace(model, networks=())])  # as one from a StableHLO file
    with pytest.raises(
        UsageError, match="heat maps by gradcam are not available from this file: give --model the workdir"
    ):
        heat_map_files.HeatMapFiles(tmp_path / "maps", program)
    assert not (tmp_path / "maps").exists()


def test_a_file_in_the_place_of_the_folder(predictor, tmp_path):
    (tmp_path / "maps").write_text("")
    with pytest.raises(UsageError, match="is a file: give a folder"):
        heat_map_files.HeatMapFiles(tmp_path / "maps", predictor)
