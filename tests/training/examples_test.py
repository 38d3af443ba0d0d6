"""The examples of a report: which images, their heat maps, their files, and the commands that a demo ends with."""

import pathlib
import shlex
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from bt_jax.data import dataset, phantom_source
from bt_jax.data.class_labels import BRAIN_TUMOR_CLASSES
from bt_jax.data.dataset import Dataset
from bt_jax.data.preprocess import Preprocessing
from bt_jax.data.sources import Source
from bt_jax.training import examples
from tests import drawings, small_models
from tests.drawings import Drawn


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> Drawn:
    return drawings.keeping(monkeypatch)


@pytest.fixture(scope="module")
def phantoms() -> tuple[Source, Dataset]:
    """Eight testing phantoms of each class, of two patients each."""
    source = phantom_source.open_phantoms(per_class=(0, 8), seed=0)
    loaded = dataset.load(source, preprocessing=Preprocessing(size=32), max_unreadable=0, warn=pytest.fail)
    return source, loaded


@given(labels=st.lists(st.integers(0, 4), min_size=1, max_size=60).map(np.array), each=st.integers(1, 5))
def test_each_class_is_shown_by_images_spread_over_the_split(labels: np.ndarray, each: int) -> None:
    rows = examples.choose_rows(labels, each=each)
    assert len(set(rows.tolist())) == len(rows)
    for number in range(5):
        of_class, chosen = np.flatnonzero(labels == number), rows[labels[rows] == number]
        assert len(chosen) == min(each, len(of_class))
        places = np.searchsorted(of_class, chosen)
        for place, expected in zip(places, (np.arange(len(chosen)) + 0.5) * len(of_class) / each, strict=False):
            assert len(chosen) < each or place == int(expected)


def test_examples_of_a_class_are_of_different_patients(phantoms: tuple[Source, Dataset]) -> None:
    source, loaded = phantoms
    assert source.patients is not None
    rows = examples.choose_rows(loaded.labels, each=2)
    assert len({source.patients[loaded.paths[row]] for row in rows}) == 2 * len(BRAIN_TUMOR_CLASSES)


@pytest.mark.parametrize("network", ["cnn", "mlp"])
def test_heat_maps_are_drawn_beside_their_images(
    tmp_path: pathlib.Path, drawn: Drawn, phantoms: tuple[Source, Dataset], network: str
) -> None:
    options = {"filters": (4, 6)} if network == "cnn" else {}
    model = small_models.write(tmp_path / "model", network, size=32, hidden=(5,), plain=True, **options)
    _, loaded = phantoms
    rows = np.array([0, 9, 18, 27])
    probabilities = np.full((len(loaded), 4), 0.1)
    probabilities[:, 2] = 0.7
    examples.draw_heat_maps(
        tmp_path / "maps.png",
        model.networks[0],
        loaded,
        rows,
        probabilities=probabilities,
        class_names=BRAIN_TUMOR_CLASSES,
        title="Four images",
        notice=None,
    )
    drawn.assert_readable()
    assert drawn.texts().count("no tumor, 0.70") == 4 and drawn.texts().count("glioma tumor") == 1
    pictures = [np.asarray(axes.get_images()[0].get_array()) for axes in drawn.figure.axes]
    for image, overlay, row in zip(pictures[::2], pictures[1::2], rows, strict=True):
        np.testing.assert_array_equal(image, loaded.images[row])
        assert overlay.shape == (32, 32, 3)
    assert any(
        (overlay != image[..., None]).any() for image, overlay in zip(pictures[::2], pictures[1::2], strict=True)
    )


def test_files_hold_the_images_with_their_classes_in_their_names(
    tmp_path: pathlib.Path, phantoms: tuple[Source, Dataset]
) -> None:
    source, loaded = phantoms
    for _ in range(2):  # a finished demo is reported again
        examples.write_files(tmp_path / "examples", source, loaded, np.array([1, 9]))
    found = sorted((tmp_path / "examples").iterdir())
    assert [path.name for path in found] == ["glioma_tumor_phantom_0002.png", "meningioma_tumor_phantom_0002.png"]
    for path, row in zip(found, (1, 9), strict=True):
        with Image.open(path) as image:
            square = Preprocessing(size=32)(np.asarray(image))
        np.testing.assert_array_equal(square, loaded.images[row])


def test_three_commands_follow(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "executable", str(tmp_path / ".venv/bin/python"))
    text = examples.format_next_commands(pathlib.Path("my runs/demo"))
    commands = [shlex.split(line, comments=True) for line in text.splitlines()[1:]]
    assert [command for command in commands if command] == [
        [".venv/bin/python", "-m", "bt_jax.predict", "--model=my runs/demo", "--gradcam=my runs/demo/heat_maps",
         "my runs/demo/examples"],
        [".venv/bin/python", "-m", "bt_jax.serve", "--model=my runs/demo"],
        [".venv/bin/python", "-m", "bt_jax.main", "--config=configs/effnet.py:cpu", "--workdir=runs/first"],
    ]  # fmt: skip
    assert text.startswith(f"Next, in {tmp_path}:")


def test_commands_about_another_folder_have_its_whole_path(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert f"--model={tmp_path}/demo\n" in examples.format_next_commands(tmp_path / "demo")
