import dataclasses
import functools

import numpy as np
import pytest

from bt_jax.common.errors import UsageError
from bt_jax.data import partition, sources
from bt_jax.data.preprocess import Preprocessing

FOLDS = 3


@pytest.fixture(scope="module")
def source() -> sources.Source:
    """Three patients of each class, two slices each; drawn once."""
    phantoms = sources.open_phantoms(per_class=(6, 2), seed=0)
    return dataclasses.replace(phantoms, read=functools.cache(phantoms.read))


def divide(source: sources.Source, *, fold: int = 0, **options) -> partition.Partition:
    options = {"folds": FOLDS, "max_unreadable": 0, "warn": print} | options
    return partition.divide(source, preprocessing=Preprocessing(form="stretch", size=8), fold=fold, **options)


def test_training_and_validation_are_all_of_training_by_patient(source):
    validated: list[str] = []
    for fold in range(FOLDS):
        data = divide(source, fold=fold)
        training, validation = set(data.training.paths), set(data.validation.paths)
        assert training | validation == {record.path for record in source.select_split("Training").records}
        assert not {source.groups[path] for path in training} & {source.groups[path] for path in validation}
        assert np.bincount(data.validation.labels).tolist() == [2, 2, 2, 2]
        assert set(data.testing.paths) == {record.path for record in source.select_split("Testing").records}
        validated += data.validation.paths
    assert sorted(validated) == [record.path for record in source.select_split("Training").records]


def test_without_folds_all_images_train(source):
    data = divide(source, folds=0)
    assert data.training.paths == [record.path for record in source.select_split("Training").records]
    assert len(data.validation) == 0 and len(data.testing) == 8
    assert {tuple(row[3:5]) for row in data.table} == {("", "training"), ("", "testing")}
    assert b",,training," in data.table.to_csv() and data.sha256 != divide(source).sha256
    probe = divide(source, folds=0, probe="no_tumor:patient=no_tumor-0000")
    assert len(probe.shifted) == 2 and len(probe.training) == 22
    with pytest.raises(UsageError, match=r"config\.data\.fold is 1: use 0, since config\.data\.folds is 0"):
        divide(source, folds=0, fold=1)


def test_patients_with_a_name_in_the_data_are_known(source):
    named = dict.fromkeys(list(source.patients)[::3], "p1")
    data = divide(dataclasses.replace(source, patients=named | dict.fromkeys(set(source.patients) - set(named), "")))
    assert data.validation_known.tolist() == [path in named for path in data.validation.paths]
    assert 0 < data.validation_known.sum() < len(data.validation)


def test_the_table_says_what_each_image_is_for(source):
    data = divide(source, fold=1)
    assert data.grouping == "24 images by groups.csv"
    parts = {"training": data.training, "validation": data.validation, "testing": data.testing}
    assert len(data.table) == len(source.records)
    for role, part in parts.items():
        rows = [row for row in data.table if row[4] == role]
        assert [(row[0], row[5]) for row in rows] == list(zip(part.paths, part.fingerprints, strict=True))
        assert [row[1] for row in rows] == [source.class_names[label] for label in part.labels]
        for path, _, group, fold, *_ in rows:
            assert (group, fold) == ("", "") if role == "testing" else group == source.groups[path]
            assert role == "testing" or (fold == 1) == (role == "validation")


def test_the_same_fold_again_is_the_same(source):
    first, second = divide(source, fold=2), divide(source, fold=2)
    assert first.table == second.table
    np.testing.assert_array_equal(first.training.images, second.training.images)


@pytest.mark.parametrize("fold", [-1, FOLDS, 99])
def test_a_fold_that_is_not_there(source, fold):
    with pytest.raises(UsageError, match=rf"config\.data\.fold is {fold}: use 0 to 2, or -1 for all"):
        divide(source, fold=fold)


def test_too_few_patients(source):
    with pytest.raises(UsageError, match=r"config\.data\.folds is 4, but glioma_tumor has images of only 3 patients"):
        divide(source, folds=4)


def test_unreadable_files_are_reported_and_left_out(kaggle):
    kaggle.add("Training/no_tumor", images=1).write("Training/glioma_tumor/broken.jpg", b"none")
    warnings: list[str] = []
    data = divide(kaggle.open(), folds=2, max_unreadable=1, warn=warnings.append)
    assert len(warnings) == 1 and "broken.jpg" in warnings[0]
    assert len(data.training) + len(data.validation) == 9
    assert not any("broken" in row[0] for row in data.table)


def test_nothing_readable(folder):
    folder.write("Training/a/1.jpg", b"none").write("Training/b/1.jpg", b"none")
    with pytest.raises(UsageError, match="no readable images to train on"):
        divide(folder.open(), max_unreadable=2)


def test_no_testing_images(folder):
    folder.add("a", images=4).add("b", images=4)
    data = divide(folder.open(), folds=2)
    assert len(data.testing) == 0 and len(data.training) + len(data.validation) == 8
    assert data.grouping == "8 images by near-duplicates, since their patients are unknown"


def probed(source, probe: str, **options) -> partition.Partition:
    return divide(source, probe=probe, **options)


@pytest.fixture(scope="module")
def larger() -> sources.Source:
    """Six patients of each class."""
    phantoms = sources.open_phantoms(per_class=(12, 0), seed=0)
    return dataclasses.replace(phantoms, read=functools.cache(phantoms.read))


@pytest.mark.parametrize("fold", range(2))
def test_a_probe_is_kept_from_training_and_validation_and_moves_nothing_else(larger, fold):
    source = larger
    plain = divide(source, fold=fold, folds=2)
    # One slice of two patients, whose other slices are set aside.
    paths = [f"Training/meningioma_tumor/phantom_{number:04d}.png" for number in range(1, 13)]
    patients = dataclasses.replace(source, patients=source.patients | {paths[0]: "x1", paths[2]: "x2"})
    data = probed(patients, "meningioma:patient=x*", fold=fold, folds=2)
    role = {row[0]: row[4] for row in data.table}
    assert data.shifted.paths == [paths[0], paths[2]] and data.probe is not None
    assert [path for path in paths if role[path] == "set aside"] == [paths[1], paths[3]]
    gone = set(paths[:4])
    assert data.training.paths == [path for path in plain.training.paths if path not in gone]
    assert data.validation.paths == [path for path in plain.validation.paths if path not in gone]
    assert [row[:4] for row in data.table] == [row[:4] for row in plain.table]
    assert data.look_up_groups(data.shifted) == [source.groups[paths[0]], source.groups[paths[2]]]
    assert data.facts["probe"] == "meningioma_tumor whose patient's key is x*"
    assert data.sha256 != plain.sha256


def test_without_a_probe_there_is_none(source):
    data = divide(source)
    assert len(data.shifted) == 0 and data.probe is None and data.facts["probe"] is None


def test_a_probe_that_leaves_nothing_of_its_class(source):
    patient = next(group for group in divide(source).look_up_groups(divide(source).validation) if "no_tumor" in group)
    with pytest.raises(UsageError, match=r"config\.data\.probe is .*leaves no image of no_tumor for training"):
        probed(source, f"no_tumor:patient!={patient}", fold=0)


def test_sources_count_alike_only_where_asked(source):
    mixed = {path: "a" if not path.endswith("6.png") else "b" for path in source.patients}
    data = divide(dataclasses.replace(source, patients=mixed))
    assert data.compute_training_weights("none") is None
    weights = data.compute_training_weights("source")
    assert weights is not None and weights.dtype == np.float32 and len(np.unique(weights.round(4))) > 1


def test_the_groups_of_the_validation_images(source):
    data = divide(source, fold=2)
    assert data.look_up_groups(data.validation) == [source.groups[path] for path in data.validation.paths]
