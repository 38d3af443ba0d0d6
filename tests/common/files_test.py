import csv
import json
import pathlib

import hypothesis
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st

from bt_jax.common import files


def names(folder: pathlib.Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_new_file_and_its_folders_appear(tmp_path):
    files.write_text(tmp_path / "a/b/note.txt", "grün")
    assert (tmp_path / "a/b/note.txt").read_bytes() == "grün".encode()
    assert names(tmp_path / "a/b") == ["note.txt"]


def test_the_old_content_is_there_until_the_block_ends(tmp_path):
    path = tmp_path / "table.csv"
    files.write_bytes(path, b"old")
    with files.replace_atomically(path) as temporary:
        temporary.write_bytes(b"new")
        assert path.read_bytes() == b"old"
        assert temporary.parent == path.parent and temporary.suffix == ".csv"
    assert path.read_bytes() == b"new"
    assert names(tmp_path) == ["table.csv"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_a_crash_in_the_block_leaves_the_old_content_and_no_temporary_file(tmp_path, error):
    path = tmp_path / "model.bin"
    files.write_bytes(path, b"old")
    with pytest.raises(error), files.replace_atomically(path) as temporary:
        temporary.write_bytes(b"half")
        raise error
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["model.bin"]


def test_a_crash_before_anything_was_written_leaves_nothing(tmp_path):
    with pytest.raises(ValueError, match="early"), files.replace_atomically(tmp_path / "model.bin"):
        raise ValueError("early")
    assert names(tmp_path) == []


def test_a_block_that_writes_nothing_is_an_error(tmp_path):
    files.write_bytes(tmp_path / "x", b"old")
    with pytest.raises(FileNotFoundError), files.replace_atomically(tmp_path / "x"):
        pass
    assert (tmp_path / "x").read_bytes() == b"old"


def test_two_writers_of_one_file_do_not_meet(tmp_path):
    path = tmp_path / "x"
    with files.replace_atomically(path) as first, files.replace_atomically(path) as second:
        first.write_bytes(b"first")
        second.write_bytes(b"second")
        assert first != second
    assert path.read_bytes() == b"first"
    assert names(tmp_path) == ["x"]


def test_json_has_null_for_what_is_not_finite(tmp_path):
    path = tmp_path / "metrics.json"
    content = {
        "nan": float("nan"), "list": [1, float("inf"), (2.5, -float("inf"))], "array": np.array([[0.5, np.nan]]),
        "scalar": np.float32("nan"), "count": np.int64(3), "device": jnp.array([1.0, jnp.nan]), 7: None, "name": "é",
    }  # fmt: skip
    files.write_json(path, content)
    assert json.loads(path.read_text(encoding="utf-8"), parse_constant=pytest.fail) == {
        "nan": None, "list": [1, None, [2.5, None]], "array": [[0.5, None]], "scalar": None, "count": 3,
        "device": [1.0, None], "7": None, "name": "é",
    }  # fmt: skip
    assert path.read_text(encoding="utf-8").endswith("}\n")


def test_json_that_cannot_be_written_leaves_the_old_file(tmp_path):
    path = tmp_path / "metrics.json"
    files.write_json(path, {"a": 1})
    with pytest.raises(TypeError):
        files.write_json(path, {"a": object()})
    assert json.loads(path.read_text()) == {"a": 1}
    assert names(tmp_path) == ["metrics.json"]


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text() | st.floats(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


@hypothesis.settings(deadline=None, max_examples=50)
@hypothesis.given(content=json_values)
def test_finite_changes_nothing_else(content):
    text = json.dumps(files.make_json_safe(content), allow_nan=False)
    standard = json.loads(json.dumps(content), parse_constant=lambda name: None)
    assert json.loads(text) == standard


def test_csv_round_trip(tmp_path):
    rows = [["a, b", 'says "x"', 1], ["line\nbreak", "", 0.1]]
    files.write_csv(tmp_path / "t.csv", ("one", "two", "three"), rows)
    content = (tmp_path / "t.csv").read_bytes()
    assert content.startswith(b"one,two,three\n") and b"\r" not in content
    with (tmp_path / "t.csv").open(newline="") as file:
        assert list(csv.reader(file)) == [["one", "two", "three"], *[[str(value) for value in row] for row in rows]]


def test_cache_directory(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("BT_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert files.get_cache_directory() == tmp_path / ".cache/bt_jax"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert files.get_cache_directory() == tmp_path / "xdg/bt_jax"
    monkeypatch.setenv("BT_CACHE", "~/mine")
    assert files.get_cache_directory() == tmp_path / "mine"


def test_csv_is_read_back_as_it_was_written(tmp_path):
    files.write_csv(tmp_path / "t.csv", ["path", "n"], [["a,b.png", 1], ['quo"te', 2]])
    assert files.read_csv(tmp_path / "t.csv") == [{"path": "a,b.png", "n": "1"}, {"path": 'quo"te', "n": "2"}]
