import csv
import warnings

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st
from sklearn.model_selection import StratifiedGroupKFold

from bt_jax.common.errors import UsageError
from bt_jax.data import kaggle_patients, splits
from bt_jax.data.dataset import Dataset
from bt_jax.data.dedup import near_duplicates

NAMES = ("a", "b", "c", "d")


def random_thumbnails(count: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, 2, 16, 16), dtype=np.uint8)


def grouped(
    count: int, table: dict[int, str], *, same: dict[int, int] | None = None, near: dict[int, int] | None = None
) -> tuple[list[str], str]:
    """Groups of images by number, with groups from a table and copies (exact or near) of earlier ones."""
    fingerprints, thumbnails = [f"fingerprint {i}" for i in range(count)], random_thumbnails(count)
    for later, earlier in (same or {}).items():
        fingerprints[later], thumbnails[later] = fingerprints[earlier], thumbnails[earlier]
    for later, earlier in (near or {}).items():
        thumbnails[later] = np.clip(thumbnails[earlier].astype(int) + 3, 0, 255)
    return splits.group_images(
        paths=[f"{i}.png" for i in range(count)],
        fingerprints=fingerprints,
        thumbnails=thumbnails,
        table={f"{i}.png": group for i, group in table.items()},
    )


def partition(groups: list[str]) -> list[int]:
    """The first member of each one's group."""
    return [groups.index(group) for group in groups]


def of_real(dataset: Dataset, table: dict[str, str]) -> tuple[list[str], str]:
    return splits.group_images(
        paths=dataset.paths, fingerprints=dataset.fingerprints, thumbnails=dataset.thumbnails, table=table
    )


def test_groups_of_the_table():
    groups, origin = grouped(4, {0: "p", 1: "q", 2: "p", 3: "q"})
    assert groups == ["p", "q", "p", "q"]
    assert origin == "4 images by groups.csv"


def test_pixel_identical_images_share_a_group_whatever_the_table_says():
    groups, _ = grouped(5, {0: "p", 1: "q", 2: "r", 3: "q", 4: "s"}, same={2: 0, 4: 2})
    assert partition(groups) == [0, 1, 0, 1, 0]
    groups, _ = grouped(4, {0: "p", 1: "p", 2: "q", 3: "q"}, same={2: 1})
    assert partition(groups) == [0, 0, 0, 0], "all images of two patients, since the two must be one"


def test_images_without_a_group_join_those_that_look_nearly_the_same():
    groups, origin = grouped(6, {0: "p", 1: "q"}, near={2: 0, 4: 3})
    assert partition(groups) == [0, 1, 0, 3, 3, 5]
    assert groups[0] == groups[2] == "p"
    assert origin == "2 images by groups.csv, 4 images by near-duplicates, since their patients are unknown"


def test_near_duplicates_do_not_join_known_patients():
    groups, _ = grouped(3, {0: "p", 1: "q", 2: "r"}, near={2: 0})
    assert groups == ["p", "q", "r"]


def test_patients_known_by_the_content_of_their_images(monkeypatch):
    monkeypatch.setattr(
        kaggle_patients, "load_groups", lambda: {"fingerprint 1": "17", "fingerprint 2": "17", "fingerprint 3": "4"}
    )
    groups, origin = grouped(5, {3: "p"})
    assert partition(groups) == [0, 1, 1, 3, 4]
    assert groups[1] == "17" and groups[3] == "p"
    assert (
        origin == "1 images by groups.csv, 2 images by the known patients of this data set, "
        "2 images by near-duplicates, since their patients are unknown"
    )


def test_no_images_have_no_groups():
    assert splits.group_images(paths=[], fingerprints=[], thumbnails=random_thumbnails(0), table={}) == ([], "")


def test_folds_are_those_of_scikit_learn():
    generator = np.random.default_rng(1)
    groups = [f"patient {i}" for i in generator.integers(0, 40, 200)]
    labels = np.array([int(group.split()[1]) % 4 for group in groups])
    fold = splits.assign_folds(labels=labels, groups=groups, folds=5, class_names=NAMES)
    expected = StratifiedGroupKFold(5, shuffle=True, random_state=0).split(labels, labels, groups)
    for number, (_, validation) in enumerate(expected):
        assert np.flatnonzero(fold == number).tolist() == validation.tolist()


@hypothesis.settings(deadline=None)
@hypothesis.given(
    sizes=st.lists(st.lists(st.integers(1, 5), min_size=4, max_size=8), min_size=1, max_size=4),
    folds=st.integers(2, 4),
    seed=st.integers(0, 1000),
)
def test_no_group_straddles_folds_and_no_fold_is_empty(sizes, folds, seed):
    """`sizes`: images of each group of each class."""
    rows = [
        (label, f"{label}-{number}")
        for label, of_class in enumerate(sizes)
        for number, size in enumerate(of_class)
        for _ in range(size)
    ]
    rows = [rows[i] for i in np.random.default_rng(seed).permutation(len(rows))]
    labels, groups = [label for label, _ in rows], [group for _, group in rows]
    fold = splits.assign_folds(labels=labels, groups=groups, folds=folds, class_names=NAMES)
    assert fold.shape == (len(rows),)
    assert set(fold.tolist()) == set(range(folds))
    folds_of: dict[str, set[int]] = {}
    for group, number in zip(groups, fold.tolist(), strict=True):
        folds_of.setdefault(group, set()).add(number)
    assert all(len(numbers) == 1 for numbers in folds_of.values())
    again = splits.assign_folds(labels=labels, groups=groups, folds=folds, class_names=NAMES)
    np.testing.assert_array_equal(fold, again)


@hypothesis.settings(deadline=None)
@hypothesis.given(
    table=st.dictionaries(st.integers(0, 11), st.sampled_from("pqrs"), max_size=12),
    same=st.dictionaries(st.integers(6, 11), st.integers(0, 5), max_size=4),
)
def test_groups_are_closed_under_table_and_equal_pixels(table, same):
    groups, _ = grouped(12, table, same=same)
    for later, earlier in same.items():
        assert groups[later] == groups[earlier]
    for i, j in [(i, j) for i in table for j in table if table[i] == table[j]]:
        assert groups[i] == groups[j]
    touched = table.keys() | same.keys() | set(same.values())
    for i in set(range(12)) - touched:
        assert groups.count(groups[i]) == 1


@pytest.mark.parametrize(
    ("labels", "groups", "folds", "message"),
    [
        ([0, 0, 0, 1, 1, 1], list("xyzppq"), 3, r"config\.data\.folds is 3, but b has images of only 2 patients"),
        ([0, 0, 0], list("xyz"), 1, r"config\.data\.folds is 1: use at least 2"),
        ([0, 0, 0], list("xyz"), 4, r"config\.data\.folds is 4, but a has images of only 3 patients"),
        ([], [], 5, "no readable images"),
    ],
)
def test_impossible_splits(labels, groups, folds, message):
    with pytest.raises(UsageError, match=message):
        splits.assign_folds(labels=labels, groups=groups, folds=folds, class_names=NAMES)


@pytest.mark.real_data
def test_real_groups_are_those_of_the_table_with_and_without_it(real_directory, real_source, real_dataset):
    training = real_dataset.select_split("Training")
    with (real_directory / "groups.csv").open(newline="") as file:
        group_of = {row["path"]: row["group"] for row in csv.DictReader(file)}
    expected = [group_of[path] for path in training.paths]
    groups, origin = of_real(training, real_source.groups)
    assert groups == expected
    assert origin == "2870 images by groups.csv"
    groups, origin = of_real(training, {})
    assert groups == expected
    assert origin == "2870 images by the known patients of this data set"


@pytest.mark.real_data
def test_real_images_that_nobody_knows_join_near_duplicates(real_source, real_dataset, monkeypatch):
    training = real_dataset.select_split("Training")
    known, _ = of_real(training, real_source.groups)
    # One of each pair of pixel-distinct near-duplicates among the healthy is taken out of the manifest.
    healthy = np.flatnonzero(training.labels == real_source.class_names.index("no_tumor"))
    near_pairs = near_duplicates.find_near_duplicates(training.thumbnails[healthy])
    distinct = {
        known[i]: i
        for i, j in zip(healthy[near_pairs.first].tolist(), healthy[near_pairs.second].tolist(), strict=True)
        if known[i] == known[j] and training.fingerprints[i] != training.fingerprints[j]
    }
    left_out = sorted(distinct.values())
    assert len(left_out) >= 15
    unknown = {training.fingerprints[i] for i in left_out}
    rest = {
        fingerprint: group for fingerprint, group in kaggle_patients.load_groups().items() if fingerprint not in unknown
    }
    monkeypatch.setattr(kaggle_patients, "load_groups", lambda: rest)
    groups, origin = of_real(training, {})
    assert "by near-duplicates, since their patients are unknown" in origin
    before, after = partition(known), partition(groups)
    for i in left_out:
        assert any(before[i] == before[j] and after[i] == after[j] for j in range(len(training)) if j != i)


@pytest.mark.real_data
def test_real_folds(real_source, real_dataset):
    training = real_dataset.select_split("Training")
    groups, _ = of_real(training, real_source.groups)
    fold = splits.assign_folds(labels=training.labels, groups=groups, folds=5, class_names=real_source.class_names)
    expected = StratifiedGroupKFold(n_splits=5, shuffle=True, random_state=0)
    labels = [path.split("/")[1] for path in training.paths]
    assert training.paths == sorted(training.paths)
    for number, (_, validation) in enumerate(
        expected.split(labels, labels, [real_source.groups[path] for path in training.paths])
    ):
        assert np.flatnonzero(fold == number).tolist() == validation.tolist()
    shares = np.array([np.bincount(training.labels[fold == number], minlength=4) for number in range(5)])
    np.testing.assert_allclose(shares / shares.sum(0), 0.2, atol=0.06)


def reference(labels: np.ndarray, groups: np.ndarray, folds: int) -> np.ndarray:
    fold = np.empty(len(labels), np.int64)
    splitter = StratifiedGroupKFold(n_splits=folds, shuffle=True, random_state=0)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The least populated class")
        for number, (_, left_out) in enumerate(splitter.split(np.zeros(len(labels)), labels, groups)):
            fold[left_out] = number
    return fold


def dense(values: np.ndarray) -> np.ndarray:
    return np.unique(values, return_inverse=True)[1]


@hypothesis.settings(deadline=None, max_examples=300)
@hypothesis.given(
    seed=st.integers(0, 2**32 - 1),
    classes=st.integers(2, splits.MAX_CLASSES),
    folds=st.integers(2, 10),
    groups=st.integers(10, 80),
    per_group=st.integers(1, 6),
    mixed=st.booleans(),
)
def test_any_labels_and_groups_are_dealt_as_scikit_learn_does(
    seed: int, classes: int, folds: int, groups: int, per_group: int, mixed: bool
) -> None:
    generator = np.random.default_rng(seed)
    group = dense(generator.integers(0, groups, groups * per_group))
    label = dense(generator.integers(0, classes, len(group)) if mixed else group % classes)
    if group.max() + 1 < folds or (np.bincount(label) < folds).all() or label.max() < 1:
        return
    np.testing.assert_array_equal(
        splits.assign_stratified_groups(label, group, folds=folds), reference(label, group, folds)
    )


def test_many_equal_groups_are_dealt_as_scikit_learn_does() -> None:
    """The order of phantoms consists of ties alone."""
    group = np.arange(2000) // 4
    label = group % 4
    found = splits.assign_stratified_groups(label, group, folds=5)
    np.testing.assert_array_equal(found, reference(label, group, 5))
    assert np.bincount(found).tolist() == [400] * 5


def test_more_classes_are_refused() -> None:
    with pytest.raises(ValueError, match="8 classes"):
        splits.assign_stratified_groups(np.arange(8), np.arange(8), folds=2)


@pytest.mark.parametrize("classes", [1, 4, 9])
def test_any_number_of_classes_is_divided_alike(classes: int) -> None:
    """Class counts that are not supported here are passed to scikit-learn."""
    generator = np.random.default_rng(0)
    groups = generator.integers(0, 60, 500)
    names = [f"patient {group:02d}" for group in groups]
    labels = generator.integers(3, 3 + classes, 500)
    found = splits.assign_folds(labels=labels, groups=names, folds=5, class_names="abcdefghijkl")
    np.testing.assert_array_equal(found, reference(dense(labels), dense(groups), 5))
