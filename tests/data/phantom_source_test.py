"""Phantoms as a source of images, with an index and without one."""

import numpy as np
import pytest

from bt_jax.data import partition, phantom_source, splits
from bt_jax.data.class_labels import BRAIN_TUMOR_CLASSES
from bt_jax.data.io.decode import decode_image
from bt_jax.data.lazy_images import LazyImages
from bt_jax.data.phantoms import phantom
from bt_jax.data.preprocess import Preprocessing


def test_the_reader_draws_the_phantom_that_a_path_names():
    source = phantom_source.open_phantoms(per_class=(5, 2), seed=7)
    assert source.read == phantom_source.PhantomReader(training_per_class=5, seed=7)
    # 5 Training slices begin 3 patients, so Testing starts with index 6.
    for path, index in (("Training/no_tumor/phantom_0003.png", 2), ("Testing/no_tumor/phantom_0002.png", 7)):
        drawn = phantom.render(index, label="no_tumor", seed=7).image
        np.testing.assert_array_equal(decode_image(source.read(path), name=path), drawn)


def test_records_have_labels_splits_and_patients():
    source = phantom_source.open_phantoms(per_class=(5, 2), seed=0)
    assert source.synthetic and source.class_names == BRAIN_TUMOR_CLASSES and len(source.records) == 4 * 7
    for record in source.records:
        split, label, _ = record.path.split("/")
        assert record.split == split and source.class_names[record.label] == label
        assert source.patients[record.path].startswith(f"{label}-")
    assert source.patients == source.groups


def test_phantoms_too_many_for_memory_are_the_same_phantoms(monkeypatch: pytest.MonkeyPatch) -> None:
    per_class = (9, 3)
    eager = phantom_source.open_phantoms(per_class=per_class, seed=1)
    monkeypatch.setattr(splits, "MAX_COMPARED", 10)
    lazy = phantom_source.open_phantoms(per_class=per_class, seed=1)
    assert lazy.index is not None and eager.index is None
    assert list(lazy.records) == list(eager.records)
    for record in eager.records[::7]:
        assert lazy.read(record.path) == eager.read(record.path)
    a, b = (
        partition.divide(
            source,
            folds=2,
            fold=1,
            preprocessing=Preprocessing(form="head", size=24),
            max_unreadable=0,
            warn=pytest.fail,
        )
        for source in (lazy, eager)
    )
    assert isinstance(a.training.images, LazyImages)
    assert [row[:5] for row in a.table] == [row[:5] for row in b.table]  # but for the fingerprints
    assert a.grouping == b.grouping
    assert len(set(a.training.fingerprints)) == len(a.training)
    np.testing.assert_array_equal(a.training.images[2], b.training.images[2])
    np.testing.assert_array_equal(a.training_sources, b.training_sources)


def test_phantoms_of_other_seeds_are_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(splits, "MAX_COMPARED", 10)
    first, second = (phantom_source.open_phantoms(per_class=(5, 1), seed=seed) for seed in (0, 1))
    assert first.index is not None and second.index is not None
    assert not set(first.index.fingerprints) & set(second.index.fingerprints)


def test_many_phantoms_stand_in_the_order_of_their_paths(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(splits, "MAX_COMPARED", 10)
    source = phantom_source.open_phantoms(per_class=(10_050, 0), seed=0)
    paths = [record.path for record in source.records]
    assert paths == sorted(paths) and len(set(paths)) == 4 * 10_050
