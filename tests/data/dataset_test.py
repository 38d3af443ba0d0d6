import io
import threading

import numpy as np
import pytest
from PIL import Image

from bt_jax.common.errors import UsageError
from bt_jax.data import dataset, fingerprints
from bt_jax.data.io.decode import encode_png
from bt_jax.data.preprocess import Preprocessing

PREPROCESSING = Preprocessing(form="stretch", size=16)


def jpeg(image: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def load(source, **options):
    """The dataset and the warnings."""
    warnings: list[str] = []
    options = {"preprocessing": PREPROCESSING, "max_unreadable": 10} | options
    return dataset.load(source, warn=warnings.append, **options), warnings


def mixed(kaggle, ramp):
    """Good images, two that are none, and two of an uncommon kind."""
    cut = jpeg(np.asarray(Image.fromarray(ramp).resize((300, 300))))
    kaggle.write("Training/no_tumor/a_truncated.jpg", cut[: len(cut) // 2])
    kaggle.write("Training/no_tumor/b_text.jpg", "this is a note, not an image\n")
    kaggle.write("Training/no_tumor/c_deep.png", encode_png(ramp.astype(np.uint16) * 257))
    transparent = np.stack([ramp, ramp, ramp, np.where(np.arange(32) < 16, 255, 0) * np.ones((32, 1), int)], -1)
    kaggle.write("Training/no_tumor/d_transparent.png", transparent.astype(np.uint8))
    return kaggle.open()


@pytest.fixture
def ramp() -> np.ndarray:
    """[32, 32] uint8."""
    return np.tile(np.linspace(0, 255, 32).astype(np.uint8), (32, 1))


def test_rows_are_the_records_in_order(kaggle):
    source = kaggle.open()
    loaded, warnings = load(source, threads=3)
    assert warnings == []
    assert loaded.records == source.records and len(loaded) == 11
    assert loaded.paths == [record.path for record in source.records]
    assert loaded.labels.dtype == np.int32 and loaded.labels.tolist() == [record.label for record in source.records]
    assert loaded.images.shape == (11, 16, 16) and loaded.images.dtype == np.uint8
    for i, record in enumerate(source.records):
        image = np.asarray(Image.open(kaggle.path / record.path))
        np.testing.assert_array_equal(loaded.images[i], PREPROCESSING(image))
        np.testing.assert_array_equal(loaded.thumbnails[i], fingerprints.make_thumbnails(image))
        assert loaded.fingerprints[i] == fingerprints.fingerprint(image)


@pytest.mark.parametrize("threads", [1, 4])
def test_unreadable_files_are_left_out_with_a_warning_each(kaggle, ramp, threads):
    loaded, warnings = load(mixed(kaggle, ramp), threads=threads, max_unreadable=2)
    assert len(loaded) == 13
    assert len(warnings) == 2
    assert warnings[0].startswith("left out: Training/no_tumor/a_truncated.jpg: ")
    assert warnings[1].startswith("left out: Training/no_tumor/b_text.jpg: ")
    assert not {"a_truncated.jpg", "b_text.jpg"} & {path.split("/")[-1] for path in loaded.paths}
    for path, image in zip(loaded.paths, loaded.images, strict=True):
        if "image (" in path:  # rows behind the gap have not slipped
            np.testing.assert_array_equal(image, PREPROCESSING(np.asarray(Image.open(kaggle.path / path))))


def test_16_bit_and_transparent_images_have_the_right_content(kaggle, ramp):
    loaded, _ = load(mixed(kaggle, ramp))
    rows = {path.split("/")[-1]: i for i, path in enumerate(loaded.paths)}
    deep, transparent = loaded.images[rows["c_deep.png"]], loaded.images[rows["d_transparent.png"]]
    expected = PREPROCESSING(ramp).astype(int)
    np.testing.assert_allclose(deep.astype(int), expected, atol=1)
    np.testing.assert_allclose(transparent[:, :7].astype(int), expected[:, :7], atol=1)
    assert (transparent[:, 9:] == 0).all()


def test_more_unreadable_files_than_allowed_is_an_error_that_names_them(kaggle, ramp):
    with pytest.raises(UsageError) as caught:
        load(mixed(kaggle, ramp), max_unreadable=1)
    message = str(caught.value)
    assert message.startswith(
        "2 of 15 files are not readable images, but max_unreadable (config.data.max_unreadable in training) allows 1: "
    )
    assert "a_truncated.jpg" in message and "b_text.jpg" in message and "\n" not in message


def test_of_many_unreadable_files_the_first_are_named(kaggle):
    for i in range(30):
        kaggle.write(f"Training/no_tumor/broken_{i:02}.jpg", b"")
    with pytest.raises(UsageError) as caught:
        load(kaggle.open(), max_unreadable=29)
    assert "broken_09.jpg" in str(caught.value) and "broken_10.jpg" not in str(caught.value)
    assert str(caught.value).endswith("; ...")


def test_a_file_that_cannot_be_read_counts_as_unreadable(kaggle):
    source = kaggle.open()
    (kaggle.path / source.records[0].path).unlink()
    loaded, warnings = load(source)
    assert loaded.records == source.records[1:]
    assert len(warnings) == 1 and "No such file" in warnings[0]


def test_errors_of_the_program_are_not_taken_for_unreadable_files(kaggle):
    def broken(image: np.ndarray) -> np.ndarray:
        raise ZeroDivisionError

    broken.size = 16
    with pytest.raises(ZeroDivisionError):
        load(kaggle.open(), preprocessing=broken)


def test_threads_read_at_the_same_time(kaggle):
    source = kaggle.open()
    together = threading.Barrier(2, timeout=20)

    def read(path: str) -> bytes:
        if path in (source.records[0].path, source.records[1].path):
            together.wait()
        return source.read(path)

    loaded, warnings = load(dataset.dataclasses.replace(source, read=read), threads=2)
    assert len(loaded) == 11 and warnings == []


def test_a_remembered_source_is_decoded_once_for_each_preprocessing(kaggle, ramp, monkeypatch):
    source, decoded = mixed(kaggle, ramp), []
    decode = dataset.decode_image
    monkeypatch.setattr(
        dataset, "decode_image", lambda *args, **kwargs: (decoded.append(1), decode(*args, **kwargs))[1]
    )
    plain, warnings = load(source)
    once = len(decoded)
    with dataset.cache_datasets():
        for _ in range(3):
            again, said = load(source)
            np.testing.assert_array_equal(again.images, plain.images)
            assert again.records == plain.records and said == warnings and len(warnings) == 2
            with pytest.raises(UsageError, match="allows 1"):
                load(source, max_unreadable=1)
        assert len(decoded) == 2 * once
        for size in (8, 9, 10, 11, 12):
            assert load(source, preprocessing=Preprocessing(form="stretch", size=size))[0].images.shape[1] == size
        assert len(decoded) == 7 * once
        load(source)  # five others came after it
        assert len(decoded) == 8 * once
    load(source)
    assert len(decoded) == 9 * once


def test_sizes_are_those_of_the_decoded_images(kaggle):
    kaggle.write("Training/no_tumor/a_wide.png", np.zeros((20, 50), np.uint8))
    loaded, _ = load(kaggle.open())
    assert loaded.sizes.dtype == np.int32 and loaded.sizes.shape == (len(loaded), 2)
    by_path = dict(zip(loaded.paths, loaded.sizes.tolist(), strict=True))
    assert by_path.pop("Training/no_tumor/a_wide.png") == [50, 20]
    assert set(map(tuple, by_path.values())) == {(48, 40)}
    assert loaded.select_split("Training").sizes.tolist().count([50, 20]) == 1


def test_select_and_of_split(kaggle):
    loaded, _ = load(kaggle.open())
    mask = np.arange(11) % 3 == 0
    for rows in (mask, np.flatnonzero(mask)):
        part = loaded.select(rows)
        assert part.records == loaded.records[::3] and part.fingerprints == loaded.fingerprints[::3]
        np.testing.assert_array_equal(part.images, loaded.images[::3])
        np.testing.assert_array_equal(part.thumbnails, loaded.thumbnails[::3])
    assert loaded.select(np.array([4, 1])).paths == [loaded.paths[4], loaded.paths[1]]
    assert [record.split for record in loaded.select_split("Testing").records] == ["Testing"] * 3
    nothing = loaded.select_split("Testing").select_split("Training")
    assert len(nothing) == 0 and nothing.images.shape == (0, 16, 16) and nothing.labels.shape == (0,)


@pytest.mark.real_data
def test_all_real_images_are_readable(real_source, real_dataset):
    assert real_dataset.records == real_source.records
    assert len(real_dataset.select_split("Training")) == 2870
