"""A prepared data set holds what its source holds, record for record, whatever happened while it was made."""

import dataclasses
import functools
import hashlib
import json
import os
import pathlib
import pickle
import signal
import subprocess
import sys
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import tensorflow_datasets as tfds

from bt_jax.common.errors import UsageError
from bt_jax.data import array_record, class_labels, dataset, partition, patient_groups, sources
from bt_jax.data.preprocess import Preprocessing
from bt_jax.data.records import Source
from tests import phantom_folder
from tests.data.conftest import Folder, picture

PREPROCESSING = Preprocessing(form="head", size=24)
ROOT = pathlib.Path(__file__).parents[2]


def prepare(source: Source, out: pathlib.Path, **changes: Any) -> dict[str, Any]:
    settings: dict[str, Any] = {"max_unreadable": 0, "warn": pytest.fail, "progress": lambda done, total: None}
    return array_record.prepare(source, out, **{**settings, **changes})


def opened(out: pathlib.Path) -> Source:
    return sources.open_path(out, field="config.data.dir")


def assert_same(found: Source, source: Source) -> None:
    """The same records, bytes, classes, groups, pixels, fingerprints and split."""
    assert list(found.records) == list(source.records)
    assert found.class_names == source.class_names
    assert (found.synthetic, found.divided) == (source.synthetic, source.divided)
    assert (found.groups, found.patients) == (source.groups, source.patients)
    for record in source.records:
        assert found.read(record.path) == source.read(record.path)
    settings: dict[str, Any] = {"preprocessing": PREPROCESSING, "max_unreadable": 0, "warn": pytest.fail}
    a, b = (dataset.load(each, **settings) for each in (found, source))
    assert a.fingerprints == b.fingerprints
    for name in ("images", "thumbnails", "sizes", "labels"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name), err_msg=name)
    divided = [partition.divide(each, folds=2, fold=1, **settings) for each in (found, source)]
    assert divided[0].table == divided[1].table
    assert (divided[0].grouping, divided[0].sha256) == (divided[1].grouping, divided[1].sha256)
    np.testing.assert_array_equal(divided[0].training_sources, divided[1].training_sources)


@pytest.fixture
def images(folder: Folder) -> Folder:
    """Two classes in both splits, names with spaces and umlauts, a copy, a 16-bit image, and patients of some."""
    folder.add("Training/b c", images=5).add("Training/ä", images=5).add("Testing/ä")
    folder.write("Training/ä/copy.png", picture(3))
    folder.write("Training/b c/sixteen bits.png", picture(30).astype(np.uint16) * 200)
    return folder.write(
        "groups.csv", "path,group,patient\nTraining/b c/image (1).png,g1,P1\nTraining/b c/image (2).png,g1,\n"
    )


def test_a_folder(images: Folder, tmp_path: pathlib.Path) -> None:
    made = prepare(images.open(), tmp_path / "out")
    assert_same(opened(tmp_path / "out"), images.open())
    assert made["images"] == 14
    assert made["class_names"] == ["b c", "ä"]
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_a_zip(images: Folder, tmp_path: pathlib.Path) -> None:
    path = tmp_path / "archive.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(images.path.rglob("*.*")):
            archive.write(file, pathlib.Path("wrapped") / file.relative_to(images.path))
    prepare(sources.open_path(path, field="--data"), tmp_path / "out")
    assert_same(opened(tmp_path / "out"), images.open())


def test_phantoms(tmp_path: pathlib.Path) -> None:
    source = sources.open_phantoms(per_class=(5, 1), seed=3)
    source = dataclasses.replace(source, read=functools.cache(source.read))
    prepare(source, tmp_path / "out")
    assert_same(opened(tmp_path / "out"), source)
    assert opened(tmp_path / "out").notice == source.notice


def test_class_folders_alone(folder: Folder, tmp_path: pathlib.Path) -> None:
    folder.add("no", images=4).add("yes", images=4)
    prepare(folder.open(), tmp_path / "out")
    found = opened(tmp_path / "out")
    assert_same(found, folder.open())
    assert list(found.select_split("Testing").records) == list(found.records)


@pytest.mark.parametrize("split", ["Training", "Testing"])
def test_a_part(images: Folder, tmp_path: pathlib.Path, split: str) -> None:
    prepare(images.open(), tmp_path / "out")
    found, source = opened(tmp_path / "out").select_split(split), images.open().select_split(split)
    assert list(found.records) == list(source.records)
    for record in found.records:
        assert found.read(record.path) == source.read(record.path)


def test_the_classes_of_a_model_number_the_labels(images: Folder, tmp_path: pathlib.Path) -> None:
    prepare(images.open(), tmp_path / "out")
    names = ("ä", "another", "b c")
    found = sources.open_path(tmp_path / "out", field="--data", class_names=names)
    source = sources.open_path(images.path, field="--data", class_names=names)
    assert list(found.records) == list(source.records)
    assert found.class_names == names
    with pytest.raises(UsageError, match="'b c' is none of the classes ä"):
        sources.open_path(tmp_path / "out", field="--data", class_names=("ä",))


def test_it_is_a_data_set_of_tensorflow_datasets(images: Folder, tmp_path: pathlib.Path) -> None:
    prepare(images.open(), tmp_path / "out")
    builder = tfds.builder_from_directory(str(tmp_path / "out"))
    assert builder.info.splits["train"].num_examples == 12
    assert builder.info.features["label"].names == ["b c", "ä"]
    rows = builder.as_data_source("train", decoders={"image": tfds.decode.SkipDecoding()})
    by_path = {row["path"].decode(): row for row in rows}
    row = by_path["Training/b c/image (1).png"]
    assert row["image"] == (images.path / "Training/b c/image (1).png").read_bytes()
    assert row["sha256"].decode() == hashlib.sha256(row["image"]).hexdigest()
    assert (row["group"], row["patient"], row["label"]) == (b"g1", b"P1", 0)
    assert (row["width"], row["height"]) == (48, 40)
    assert by_path["Training/ä/copy.png"]["fingerprint"] == by_path["Training/b c/image (3).png"]["fingerprint"]
    assert by_path["Training/ä/copy.png"]["group"] == by_path["Training/b c/image (3).png"]["group"] != b""


def test_unreadable_files_are_left_out_up_to_a_limit(images: Folder, tmp_path: pathlib.Path) -> None:
    images.write("Training/ä/broken.png", b"no image")
    with pytest.raises(
        UsageError, match=r"1 of 15 files are not readable images, but --max_unreadable allows 0: .*broken"
    ):
        prepare(images.open(), tmp_path / "out")
    assert not (tmp_path / "out").exists()
    warnings: list[str] = []
    prepare(images.open(), tmp_path / "out", max_unreadable=1, warn=warnings.append)
    assert len(warnings) == 1 and "left out: Training/ä/broken.png" in warnings[0]
    (images.path / "Training/ä/broken.png").unlink()
    assert_same(opened(tmp_path / "out"), images.open())


def test_a_second_start_changes_nothing(images: Folder, tmp_path: pathlib.Path) -> None:
    first = prepare(images.open(), tmp_path / "out")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")}
    source = dataclasses.replace(images.open(), read=pytest.fail)
    assert prepare(source, tmp_path / "out") == first
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")} == before


def test_the_same_images_with_other_classes_are_named_as_such(images: Folder, tmp_path: pathlib.Path) -> None:
    """As earlier versions gave two class folders the four classes of the set."""
    source = images.open()
    names = source.class_names
    prepare(sources.use_classes(source, (*names, "other")), tmp_path / "out")
    with pytest.raises(UsageError, match=f"with the classes {', '.join(names)}, other, and the images have {names[0]}"):
        prepare(source, tmp_path / "out")


def test_a_folder_whose_name_is_not_utf8(images: Folder, tmp_path: pathlib.Path) -> None:
    with pytest.raises(UsageError, match="is not UTF-8: rename it"):
        prepare(images.open(), tmp_path / os.fsdecode(b"a\xf1o"))


def test_a_class_keeps_its_name_where_it_is_an_alias_too() -> None:
    assert array_record.map_classes(["no", "yes"], ("no", "yes"), where="x").tolist() == [0, 1]
    assert array_record.map_classes(["no"], ("glioma_tumor", "no_tumor"), where="x").tolist() == [1]


def test_a_folder_of_something_else_is_left_alone(images: Folder, tmp_path: pathlib.Path) -> None:
    (tmp_path / "out").mkdir()
    prepare(images.open(), tmp_path / "out")  # empty: made for it
    images.add("Training/ä", images=1)
    with pytest.raises(UsageError, match="prepared from other images"):
        prepare(images.open(), tmp_path / "out")
    with pytest.raises(UsageError, match="exists and is not a prepared data set"):
        prepare(images.open(), images.path)


def test_a_file_that_changes_meanwhile_is_noticed(images: Folder, tmp_path: pathlib.Path) -> None:
    seen: set[str] = set()

    def read(path: str) -> bytes:
        second = path in seen
        seen.add(path)
        return images.open().read(path) + b"x" * second

    with pytest.raises(UsageError, match="has changed since it was decoded"):
        prepare(dataclasses.replace(images.open(), read=read), tmp_path / "out")


def test_what_was_looked_at_is_not_looked_at_again(
    images: Folder, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(array_record, "_BLOCK", 4)
    reads: list[str] = []

    def read(path: str) -> bytes:
        reads.append(path)
        if len(reads) == 10:
            raise KeyboardInterrupt
        return images.open().read(path)

    source = dataclasses.replace(images.open(), read=read)
    with pytest.raises(KeyboardInterrupt):
        prepare(source, tmp_path / "out", threads=1)
    assert not (tmp_path / "out").exists()
    reads[:] = [""] * 10
    prepare(source, tmp_path / "out", threads=1)
    assert len(reads) - 10 == 14 + 14 - 8  # the first two blocks were known
    assert_same(opened(tmp_path / "out"), images.open())


def test_only_one_process_prepares_a_folder(images: Folder, tmp_path: pathlib.Path) -> None:
    with (
        array_record._lock(tmp_path / ".out.preparing"),
        pytest.raises(UsageError, match="another process is preparing"),
    ):
        prepare(images.open(), tmp_path / "out")


@pytest.mark.parametrize("missing", ["index/groups.npy", "index/paths.npy"])
def test_a_damaged_folder_is_one_clear_line(images: Folder, tmp_path: pathlib.Path, missing: str) -> None:
    prepare(images.open(), tmp_path / "out")
    (tmp_path / "out" / missing).write_bytes(b"nothing")
    with pytest.raises(UsageError, match=r"is damaged .*: prepare it again"):
        opened(tmp_path / "out")


def test_another_version_is_one_clear_line(images: Folder, tmp_path: pathlib.Path) -> None:
    prepare(images.open(), tmp_path / "out")
    path = tmp_path / "out" / array_record.DESCRIPTION_FILE
    path.write_text(json.dumps({**json.loads(path.read_text()), "schema": 99}))
    with pytest.raises(UsageError, match="another version of bt_jax"):
        opened(tmp_path / "out")


def test_a_set_without_training_is_for_scoring_only(folder: Folder, tmp_path: pathlib.Path) -> None:
    folder.add("Testing/a").add("Testing/b")
    prepare(sources.open_path(folder.path, field="--data", class_names=("a", "b")), tmp_path / "out")
    with pytest.raises(UsageError, match="nothing to train on"):
        opened(tmp_path / "out")
    assert len(sources.open_path(tmp_path / "out", field="--data", class_names=("a", "b")).records) == 4


def test_records_are_read_in_threads_and_other_processes(images: Folder, tmp_path: pathlib.Path) -> None:
    prepare(images.open(), tmp_path / "out")
    found, source = opened(tmp_path / "out"), images.open()
    paths = [record.path for record in source.records] * 20
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(found.read, paths)) == list(map(source.read, paths))
    again = pickle.loads(pickle.dumps(found.read))
    assert again(paths[0]) == source.read(paths[0])
    with pytest.raises(FileNotFoundError, match="nowhere"):
        found.read("nowhere.png")


def test_patients_of_the_index(images: Folder, tmp_path: pathlib.Path) -> None:
    prepare(images.open(), tmp_path / "out")
    found = opened(tmp_path / "out")
    assert found.index is not None
    keys = [found.index.patient_names[number] if number >= 0 else "" for number in found.index.patients.tolist()]
    loaded = dataset.load(images.open(), preprocessing=PREPROCESSING, max_unreadable=0, warn=pytest.fail)
    assert keys == patient_groups.find_patient_keys(loaded, images.open().patients)


@pytest.mark.slow
def test_kills_leave_the_whole_or_nothing(tmp_path: pathlib.Path) -> None:
    """The command, killed at moments further and further on, ends with the same data set."""
    phantom_folder.write(tmp_path / "images", training_per_class=30, testing_per_class=5, seed=0)
    out = tmp_path / "out"
    command = [sys.executable, "-m", "bt_jax.prepare", f"--data={tmp_path / 'images'}", f"--out={out}"]
    for wait in (1.0, 2.0, 2.5, 3.0):
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(wait)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert not out.exists() or array_record.is_prepared(out)
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    assert_same(opened(out), sources.open_path(tmp_path / "images", field="--data"))
    assert not (tmp_path / ".out.preparing").exists()


@pytest.mark.real_data
def test_the_real_images(tmp_path: pathlib.Path) -> None:
    source = sources.open_path(os.environ["BT_DATA"], field="$BT_DATA")
    source = dataclasses.replace(source, records=source.records[::20])
    prepare(source, tmp_path / "out")
    found = opened(tmp_path / "out")
    assert list(found.records) == list(source.records)
    for record in source.records:
        assert found.read(record.path) == source.read(record.path)
    settings: dict[str, Any] = {"preprocessing": PREPROCESSING, "max_unreadable": 0, "warn": pytest.fail}
    divided = [partition.divide(each, folds=5, fold=0, **settings) for each in (found, source)]
    assert divided[0].sha256 == divided[1].sha256
    np.testing.assert_array_equal(divided[0].training.images, divided[1].training.images)


def test_classes_without_images_of_an_older_preparation_are_left_out(folder: Folder, tmp_path: pathlib.Path) -> None:
    folder.add("Training/glioma").add("Training/notumor")
    four = sources.use_classes(folder.open(), class_labels.BRAIN_TUMOR_CLASSES)
    prepare(four, tmp_path / "out")
    found = opened(tmp_path / "out")
    assert found.class_names == folder.open().class_names == ("glioma_tumor", "no_tumor")
    assert list(found.records) == list(folder.open().records)
    again = sources.use_classes(found, class_labels.BRAIN_TUMOR_CLASSES)
    assert list(again.records) == list(four.records) and again.index is not None
