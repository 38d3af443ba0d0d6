import os
import pathlib
import tempfile

import pytest

from bt_jax.common import caches
from bt_jax.common.errors import UsageError


@pytest.fixture(autouse=True)
def surroundings(monkeypatch, tmp_path) -> None:
    """No variable names a cache, and the folder for temporary files is empty."""
    for name in ("BT_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))


def test_cache_directory(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert caches.get_cache_directory() == tmp_path / ".cache/bt_jax"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert caches.get_cache_directory() == tmp_path / "xdg/bt_jax"
    monkeypatch.setenv("BT_CACHE", "~/mine")
    assert caches.get_cache_directory() == tmp_path / "mine"
    assert [path.name for path in tmp_path.iterdir()] == ["temporary"]  # it makes nothing


def test_without_a_home_there_is_a_private_folder(monkeypatch, tmp_path):
    """As in containers that run as a number without an account."""

    def fail() -> pathlib.Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(pathlib.Path, "home", fail)
    folder = caches.get_cache_directory()
    assert folder.parent == tmp_path / "temporary"
    assert folder.is_dir() and folder.stat().st_mode & 0o777 == 0o700
    assert caches.get_cache_directory() == folder
    assert caches.find_home() is None


@pytest.mark.parametrize("home", ["file/below", "absent/below"])
def test_a_home_that_cannot_be_made_or_written_to(monkeypatch, tmp_path, home):
    """As HOME=/ or HOME=/nonexistent for a user who is not root."""
    (tmp_path / "file").touch()
    monkeypatch.setenv("HOME", str(tmp_path / home))
    if home.startswith("absent"):
        monkeypatch.setattr(caches.os, "access", lambda path, mode: False)
    assert caches.get_cache_directory().parent == tmp_path / "temporary"


def test_a_cache_that_can_only_be_read_is_read(monkeypatch, tmp_path):
    """It may hold weights."""
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".cache/bt_jax").mkdir(parents=True)
    monkeypatch.setattr(caches.os, "access", lambda path, mode: not mode & os.W_OK)
    assert caches.get_cache_directory() == tmp_path / ".cache/bt_jax"
    assert not caches.can_write(tmp_path / ".cache/bt_jax/xla")


def test_a_private_folder_of_another_user_is_refused(monkeypatch):
    monkeypatch.setattr(caches, "find_home", lambda: None)
    caches.get_cache_directory().chmod(0o777)
    with pytest.raises(UsageError, match=r"others can write to .*: set \$BT_CACHE to a folder of your own"):
        caches.get_cache_directory()


def test_can_write(tmp_path):
    (tmp_path / "file").touch()
    assert caches.can_write(tmp_path) and caches.can_write(tmp_path / "a/b")
    assert not caches.can_write(tmp_path / "file") and not caches.can_write(tmp_path / "file/below")
