import hashlib
import unittest.mock

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from bt_jax.common import files
from bt_jax.data import split_table
from bt_jax.data.records import Record, Records
from bt_jax.data.split_table import SplitTable

ROWS = [
    ["Training/a/1.png", "a", "g1", 1, "training", "f1"],
    ["Training/b/2.png", "b", "g2", 0, "validation", "f2"],
    ["Testing/b/3.png", "b", "", "", "testing", "f3"],
]


def table() -> SplitTable:
    return SplitTable(
        class_names=("a", "b"),
        trainable=Records.from_rows(
            [Record("Training/a/1.png", 0, "Training"), Record("Training/b/2.png", 1, "Training")]
        ),
        groups=["g1", "g2"],
        folds=np.array([1, 0]),
        roles=np.array(["training", "validation"]),
        fingerprints=("f1", "f2"),
        testing=Records.from_rows([Record("Testing/b/3.png", 1, "Testing")]),
        testing_fingerprints=("f3",),
    )


def test_rows() -> None:
    assert list(table()) == ROWS and len(table()) == 3
    assert table() == table() == ROWS and table() != ROWS[:2] and table() != [*ROWS[:2], ROWS[0]]
    assert ROWS[1] in table() and ["x"] not in table()
    assert all(type(row[3]) in (int, str) for row in table())


def test_the_file() -> None:
    assert table().to_csv().decode() == (
        "path,label,group,fold,role,fingerprint\nTraining/a/1.png,a,g1,1,training,f1\n"
        "Training/b/2.png,b,g2,0,validation,f2\nTesting/b/3.png,b,,,testing,f3\n"
    )


def test_groups_by_path() -> None:
    paths = ["Testing/b/3.png", "Training/b/2.png", "Training/a/1.png"]
    assert table().look_up_groups(paths) == ["", "g2", "g1"]


def test_the_hash_is_that_of_all_rows() -> None:
    joined = "\n".join("\t".join(map(str, row)) for row in ROWS)
    assert table().sha256 == hashlib.sha256(joined.encode()).hexdigest()


texts = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))


@given(rows=st.lists(st.tuples(texts, texts, texts), min_size=1, max_size=8), training=st.integers(0, 8))
def test_the_file_and_the_hash_are_those_of_the_rows(rows: list[tuple[str, str, str]], training: int) -> None:
    """Whatever is in the names, and however many rows are written at a time."""
    paths, groups, fingerprints = ([row[place] for row in rows] for place in range(3))
    records = Records.from_rows(
        Record(path, number % 2, "Training" if number < training else "Testing") for number, path in enumerate(paths)
    )
    count = min(training, len(rows))
    made = SplitTable(
        class_names=('a, "b"', "ü"),
        trainable=records[:count],
        groups=groups[:count],
        folds=np.arange(count) + 9,
        roles=np.array(["set aside"] * count, str),
        fingerprints=fingerprints[:count],
        testing=records[count:],
        testing_fingerprints=fingerprints[count:],
    )
    joined = "\n".join("\t".join(map(str, row)) for row in made)
    for chunk in (3, 1 << 15):
        with unittest.mock.patch.object(split_table, "_CHUNK", chunk):
            assert made.to_csv().decode() == files.format_csv(split_table.FIELDS, made)
            assert made.sha256 == hashlib.sha256(joined.encode()).hexdigest()


def test_nothing() -> None:
    none = Records.from_rows(())
    empty = SplitTable((), none, [], np.zeros(0, int), np.zeros(0, str), (), none, ())
    assert list(empty) == [] and empty.to_csv() == b"path,label,group,fold,role,fingerprint\n"
    assert empty.sha256 == hashlib.sha256(b"").hexdigest()
