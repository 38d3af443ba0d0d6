import csv
import errno
import json
import os
import pathlib

import hypothesis
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st

from bt_jax.common import files
from bt_jax.common.errors import UsageError


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


def test_csv_is_read_back_as_it_was_written(tmp_path):
    files.write_csv(tmp_path / "t.csv", ["path", "n"], [["a,b.png", 1], ['quo"te', 2]])
    assert files.read_csv(tmp_path / "t.csv") == [{"path": "a,b.png", "n": "1"}, {"path": 'quo"te', "n": "2"}]


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_a_full_disk_is_an_error_that_names_the_file(tmp_path, error):
    path = tmp_path / "metrics.json"
    with pytest.raises(OSError) as caught, files.replace_atomically(path) as temporary:
        temporary.write_bytes(b"half")
        raise OSError(error, os.strerror(error))
    assert (caught.value.errno, caught.value.filename) == (error, str(path))
    assert names(tmp_path) == []


def test_errors_name_the_file_and_not_the_temporary_one(tmp_path):
    with pytest.raises(FileNotFoundError) as caught, files.replace_atomically(tmp_path / "model.bin"):
        pass
    assert caught.value.filename == str(tmp_path / "model.bin")


def test_other_errors_keep_what_they_say(tmp_path):
    with pytest.raises(OSError, match="the server has gone"), files.replace_atomically(tmp_path / "model.bin"):
        raise OSError("the server has gone")


def test_check_output(tmp_path):
    (tmp_path / "file").touch()
    os.mkfifo(tmp_path / "pipe")
    for good in ("file", "new", "a/b/new", "pipe"):
        files.check_output(tmp_path / good, flag="out")
    assert names(tmp_path) == ["file", "pipe"]  # it makes nothing
    with pytest.raises(UsageError, match=r"^--json is '.*', which is a folder: give a file name$"):
        files.check_output(tmp_path, flag="json")
    with pytest.raises(UsageError, match=r"^--out is '-': give a file name; that of the standard output is /dev/std"):
        files.check_output("-", flag="out")
    with pytest.raises(UsageError, match=r"^--out is '.*/file/new', but '.*/file' is not a folder: choose another"):
        files.check_output(tmp_path / "file/new", flag="out")


def test_check_folder(tmp_path):
    (tmp_path / "file").touch()
    os.mkfifo(tmp_path / "pipe")
    for good in ("", "new", "a/b/new"):
        files.check_folder(tmp_path / good, flag="out")
    assert names(tmp_path) == ["file", "pipe"]
    for bad, what in [("file", "a file"), ("pipe", "not a folder")]:
        with pytest.raises(UsageError, match=rf"^--out is '.*/{bad}', which is {what}: give a folder$"):
            files.check_folder(tmp_path / bad, flag="out")
    with pytest.raises(UsageError, match=r"^--out is '.*/file/new', but '.*/file' is not a folder: choose another"):
        files.check_folder(tmp_path / "file/new", flag="out")


def test_a_folder_whose_name_is_not_utf8():
    files.check_utf8("/a/ni\u00f1o")
    with pytest.raises(UsageError, match=r"^the name of the folder '/a/ni\\udcf1o' is not UTF-8: rename it$"):
        files.check_utf8(os.fsdecode(b"/a/ni\xf1o"))


@pytest.mark.parametrize("check", [files.check_folder, files.check_output])
def test_a_folder_without_write_permission(tmp_path, monkeypatch, check):
    monkeypatch.setattr(files.os, "access", lambda place, mode: False)
    with pytest.raises(UsageError, match=r"but this user may not write to the folder '.*': choose another place"):
        check(tmp_path / "new", flag="out")


def test_a_home_is_expanded_and_an_unknown_one_is_left(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    assert files.expand("~/out.csv") == pathlib.Path("/home/me/out.csv")
    assert files.expand("~nobody-of-this-name/out.csv") == pathlib.Path("~nobody-of-this-name/out.csv")
    assert files.expand("a~b") == pathlib.Path("a~b")
