import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bt_jax.data.records import Index, Record, Records, StringArray, factorize

texts = st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=12), max_size=8)
RECORDS = [Record("Testing/ä/1.png", 1, "Testing"), Record("Training/b c/2.png", 0, "Training")]


@given(texts)
def test_texts_are_a_sequence(values: list[str]) -> None:
    found = StringArray.from_strings(values)
    assert list(found) == values == [found[row] for row in range(len(found))]
    assert found == values and found == tuple(values) and found != [*values, "x"]
    assert list(found[::-1]) == values[::-1]
    rows = np.arange(len(values))[1::2]
    assert list(found[rows]) == [values[row] for row in rows]


@given(st.lists(st.text("aäz/ ", min_size=1, max_size=6), unique=True), st.text("aäz/ ", max_size=7))
def test_texts_in_order_are_found(values: list[str], other: str) -> None:
    found = StringArray.from_strings(sorted(values))
    for row, text in enumerate(sorted(values)):
        assert found.find(text) == row
    assert (found.find(other) is not None) == (other in values)


def test_records_are_a_sequence() -> None:
    found = Records.from_rows(RECORDS)
    assert list(found) == RECORDS and found == RECORDS and found == tuple(RECORDS)
    assert found[0] == RECORDS[0] and found[-1] == RECORDS[1] and len(found) == 2
    assert found != RECORDS[:1] and found != RECORDS[::-1]
    assert list(found[np.array([1])]) == RECORDS[1:]
    assert found.labels.dtype == np.int32
    assert found.mask_split("Training").tolist() == [False, True]
    assert found.mask_split("Testing").tolist() == [True, False]
    assert list(Records.from_rows(())) == []


def test_names_are_numbered() -> None:
    numbers, names = factorize(["b", "", "a", "b"])
    assert numbers.tolist() == [0, -1, 1, 0] and numbers.dtype == np.int32
    assert list(names) == ["b", "a"]


@pytest.fixture
def index() -> Index:
    groups, group_names = factorize(["z", "a"])
    patients, patient_names = factorize(["", "P"])
    return Index(
        records=Records.from_rows(RECORDS),
        groups=groups,
        group_names=group_names,
        patients=patients,
        patient_names=patient_names,
        fingerprints=StringArray.from_strings(["f1", "f2"]),
        sizes=np.array([[3, 4], [5, 6]], np.int32),
        thumbnails=np.zeros((0, 2, 4, 4), np.uint8),
        grouping="in words",
    )


def test_an_index_comes_back_from_files(index: Index, tmp_path) -> None:
    index.save(tmp_path / "index")
    found = Index.load(tmp_path / "index", grouping="in words")
    assert list(found.records) == RECORDS
    assert list(found.fingerprints) == ["f1", "f2"]
    assert found.sizes.tolist() == [[3, 4], [5, 6]]
    assert found.patient_keys == index.patient_keys == ["", "P"]
    assert isinstance(found.groups, np.memmap)


def test_groups_are_ranked_by_name(index: Index) -> None:
    assert index.group_ranks.tolist() == [1, 0]


def test_a_part_of_an_index(index: Index) -> None:
    found = index[np.array([1])]
    assert len(found) == 1 and found.records[0] == RECORDS[1]
    assert found.patient_keys == ["P"] and found.sizes.tolist() == [[5, 6]] and list(found.fingerprints) == ["f2"]
