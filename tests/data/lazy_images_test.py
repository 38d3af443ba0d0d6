"""Images that are read when they are asked for, against the same images as an array."""

import pathlib
import pickle
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from bt_jax.data import array_record, dataset, leakage, partition, patient_groups, pipeline, sources
from bt_jax.data.lazy_images import LazyImages
from bt_jax.data.preprocess import Preprocessing
from bt_jax.data.records import Source
from bt_jax.data.sampler import Sampler
from tests.data.conftest import Folder, picture

PREPROCESSING = Preprocessing(form="head", size=24)
SETTINGS: dict[str, Any] = {"preprocessing": PREPROCESSING, "max_unreadable": 0, "warn": pytest.fail}


@pytest.fixture
def source(kaggle: Folder, tmp_path: pathlib.Path) -> Source:
    """A prepared folder with near-duplicates, a group and a 16-bit image."""
    for name in ("glioma_tumor", "no_tumor", "meningioma_tumor", "pituitary_tumor"):
        kaggle.add(f"Training/{name}", images=3)
    kaggle.write("Training/glioma_tumor/copy.png", picture(3))
    kaggle.write("Training/no_tumor/deep.png", picture(50).astype(np.uint16) * 99)
    kaggle.write("groups.csv", "path,group,patient\nTraining/glioma_tumor/image (5).png,g,MR7\n")
    array_record.prepare(
        kaggle.open(), tmp_path / "out", max_unreadable=0, warn=pytest.fail, progress=lambda done, total: None
    )
    return sources.open_path(tmp_path / "out", field="config.data.dir")


def test_as_an_array(source: Source) -> None:
    lazy, eager = dataset.load(source, memory=0, **SETTINGS).images, dataset.load(source, **SETTINGS).images
    assert isinstance(lazy, LazyImages) and isinstance(eager, np.ndarray)
    assert lazy.shape == eager.shape and len(lazy) == len(eager) and lazy.dtype == eager.dtype
    rows = np.array([4, 0, 4])
    for key in (3, np.int64(5), -1, slice(2, 7), slice(None, None, 4), rows, np.arange(len(eager)) % 3 == 0):
        np.testing.assert_array_equal(lazy[key], eager[key])
    np.testing.assert_array_equal(lazy.select(rows)[1:], eager[rows][1:])
    with pytest.raises(IndexError, match="row 99"):
        lazy[99]


def test_in_threads_and_another_process(source: Source) -> None:
    lazy, eager = dataset.load(source, memory=0, **SETTINGS).images, dataset.load(source, **SETTINGS).images
    again = pickle.loads(pickle.dumps(lazy))
    with ThreadPoolExecutor(8) as pool:
        for row, image in enumerate(pool.map(again.__getitem__, range(len(eager)))):
            np.testing.assert_array_equal(image, eager[row])


def test_what_tells_the_pixels(source: Source) -> None:
    lazy = dataset.load(source, memory=0, **SETTINGS).images
    other = dataset.load(source, **{**SETTINGS, "preprocessing": Preprocessing(form="head", size=25)}, memory=0).images
    assert isinstance(lazy, LazyImages) and isinstance(other, LazyImages)
    assert lazy.identity.tobytes() == lazy.select(np.arange(len(lazy))).identity.tobytes()
    assert lazy.identity.tobytes() != lazy.select(np.arange(len(lazy))[::-1]).identity.tobytes()
    assert lazy.identity.tobytes() != other.identity.tobytes()


@pytest.mark.parametrize("fold", [0, 1])
def test_a_run_has_the_same_images_split_and_batches(source: Source, fold: int, tmp_path: pathlib.Path) -> None:
    lazy, eager = (
        partition.divide(source, folds=2, fold=fold, memory=memory, **SETTINGS) for memory in (0.0, float("inf"))
    )
    assert isinstance(lazy.training.images, LazyImages) and isinstance(eager.training.images, np.ndarray)
    assert list(lazy.table) == list(eager.table) and lazy.table == eager.table
    assert lazy.facts == eager.facts
    for name in ("training", "validation", "testing"):
        parts = getattr(lazy, name), getattr(eager, name)
        assert parts[0].paths == parts[1].paths
        np.testing.assert_array_equal(parts[0].labels, parts[1].labels)
        np.testing.assert_array_equal(parts[0].images[:], parts[1].images)
        np.testing.assert_array_equal(parts[0].thumbnails, parts[1].thumbnails)
        assert lazy.look_up_groups(parts[0]) == eager.look_up_groups(parts[1])
    batches = [
        list(
            pipeline.load_training_batches(
                part.training.images,
                part.training.labels,
                sampler=Sampler(records=len(part.training), batch_size=3, seed=1),
                views=0,
                start_step=2,
                stop_step=6,
            )
        )
        for part in (lazy, eager)
    ]
    for a, b in zip(*batches, strict=True):
        np.testing.assert_array_equal(a["image"], b["image"])
        np.testing.assert_array_equal(a["label"], b["label"])
    leakage.write(tmp_path, (lazy.training, lazy.validation))
    written = leakage.read(tmp_path)
    np.testing.assert_array_equal(
        leakage.has_near_duplicate(lazy.testing, *written), leakage.has_near_duplicate(eager.testing, *written)
    )


def test_patients_of_lazy_images(source: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    lazy = dataset.load(source, memory=0, **SETTINGS)
    found = patient_groups.group_by_patient(lazy, source.groups)
    assert found is not None
    groups, words = found
    assert groups[lazy.paths.index("Training/glioma_tumor/image (5).png")] == "MR7"
    assert len(set(groups)) == len(lazy) and words.startswith("1 images by patient")


def test_an_image_that_cannot_be_read_any_more_is_named(source: Source) -> None:
    lazy = dataset.load(source, memory=0, **SETTINGS)
    broken = LazyImages(
        lambda path: b"nothing",
        lazy.records.paths,
        fingerprints=lazy.index.fingerprints if lazy.index else lazy.records.paths,
        preprocessing=PREPROCESSING,
    )
    with pytest.raises(OSError, match=lazy.paths[3].split("/")[1]):
        broken[3]
