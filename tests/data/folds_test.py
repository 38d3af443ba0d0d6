import dataclasses
import functools

import numpy as np
import pytest

from bt_jax.data import folds, sources
from bt_jax.data.preprocess import Preprocessing
from bt_jax.errors import UsageError

FOLDS = 3


@pytest.fixture(scope="module")
def source() -> sources.Source:
    """Three patients of each class, four slices each; drawn once."""
    phantoms = sources.open_phantoms(per_class=(12, 2), seed=0)
    return dataclasses.replace(phantoms, read=functools.cache(phantoms.read))


def divide(source: sources.Source, *, fold: int = 0, **options) -> folds.DividedData:
    options = {"folds": FOLDS, "max_unreadable": 0, "warn": print} | options
    return folds.divide(source, preprocessing=Preprocessing(form="stretch", size=8), fold=fold, **options)


def test_training_and_validation_are_all_of_training_by_patient(source):
    validated: list[str] = []
    for fold in range(FOLDS):
        data = divide(source, fold=fold)
        training, validation = set(data.training.paths), set(data.validation.paths)
        assert training | validation == {record.path for record in source.of_split("Training").records}
        assert not {source.groups[path] for path in training} & {source.groups[path] for path in validation}
        assert np.bincount(data.validation.labels).tolist() == [4, 4, 4, 4]
        assert set(data.testing.paths) == {record.path for record in source.of_split("Testing").records}
        validated += data.validation.paths
    assert sorted(validated) == [record.path for record in source.of_split("Training").records]


def test_the_table_says_what_each_image_is_for(source):
    data = divide(source, fold=1)
    assert data.grouping == "48 images by groups.csv"
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
    assert data.grouping == "8 images by near duplicates alone, their patients unknown"


def test_the_groups_of_the_validation_images(source):
    data = divide(source, fold=2)
    assert data.groups_of(data.validation) == [source.groups[path] for path in data.validation.paths]
