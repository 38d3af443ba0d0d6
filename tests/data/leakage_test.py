import numpy as np
import pytest
from PIL import Image

from bt_jax.data import dataset, leakage
from bt_jax.data.dataset import Dataset
from bt_jax.data.preprocess import Preprocessing


@pytest.fixture
def loaded(kaggle) -> Dataset:
    def warn(line: str) -> None:
        raise AssertionError(line)

    return dataset.load(kaggle.open(), preprocessing=Preprocessing(form="stretch", size=8), max_unreadable=0, warn=warn)


def test_what_is_written_is_read_back(loaded, tmp_path):
    parts = (loaded.select(np.arange(3)), loaded.select(np.arange(3, 7)))
    leakage.write(tmp_path, parts)
    assert [file.name for file in tmp_path.iterdir() if file.is_file()] == [leakage.FILE]
    fingerprints, thumbnails = leakage.read(tmp_path)
    assert fingerprints == set(loaded.fingerprints[:7])
    assert thumbnails.dtype == np.uint8
    np.testing.assert_array_equal(thumbnails, loaded.thumbnails[:7])


def test_images_seen_and_their_near_duplicates_are_recognised(kaggle, loaded, tmp_path):
    training = loaded.select_split("Training")
    leakage.write(tmp_path, (training,))
    image = Image.open(kaggle.path / training.paths[2])
    image.save(kaggle.path / "Testing/no_tumor/a_same.bmp")
    image.resize((91, 77)).save(kaggle.path / "Testing/no_tumor/b_resized.jpg", quality=80)
    now = dataset.load(
        kaggle.open(), preprocessing=Preprocessing(form="stretch", size=8), max_unreadable=0, warn=print
    ).select_split("Testing")
    found = leakage.has_near_duplicate(now, *leakage.read(tmp_path))
    names = [path.split("/")[-1] for path in now.paths]
    assert {name for name, twin in zip(names, found, strict=True) if twin} == {"a_same.bmp", "b_resized.jpg"}
    assert len(names) == 5


def test_a_pixel_identical_image_counts_although_its_thumbnail_is_constant(loaded):
    blank = np.zeros_like(loaded.thumbnails)
    flat = Dataset(loaded.records, loaded.images, loaded.fingerprints, blank, loaded.sizes)
    found = leakage.has_near_duplicate(flat, {loaded.fingerprints[4]}, blank)
    assert np.flatnonzero(found).tolist() == [4]


def test_no_images(loaded, tmp_path):
    nothing = loaded.select(np.zeros(len(loaded), bool))
    leakage.write(tmp_path, (nothing,))
    fingerprints, thumbnails = leakage.read(tmp_path)
    assert fingerprints == set() and len(thumbnails) == 0
    assert not leakage.has_near_duplicate(loaded, fingerprints, thumbnails).any()
    assert leakage.has_near_duplicate(nothing, set(loaded.fingerprints), loaded.thumbnails).shape == (0,)


def test_a_file_with_objects_in_it_is_refused(tmp_path):
    with (tmp_path / leakage.FILE).open("wb") as file:
        np.savez(file, fingerprints=np.array([{"code": 1}], object), thumbnails=np.zeros((1, 2, 4, 4), np.uint8))
    with pytest.raises(ValueError, match="allow_pickle"):
        leakage.read(tmp_path)
