"""Outputs that are no regular files or cannot be replaced by renaming: `files` writes to what is there.

Devices are private copies in the folder of the test: a fault must not replace those of the machine.
"""

import errno
import os
import pathlib
import socket
import stat
import threading
from collections.abc import Callable

import pytest

from bt_jax.common import files

Write = Callable[[pathlib.Path], None]


def write_atomically(path: pathlib.Path) -> None:
    files.write_bytes(path, b"new")


def write_to_output(path: pathlib.Path) -> None:
    with files.open_output(path) as file:
        file.write(b"new")


@pytest.fixture(params=[write_atomically, write_to_output])
def write(request) -> Write:
    return request.param


def names(folder: pathlib.Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_link_stays_and_its_target_is_replaced(tmp_path, write):
    (tmp_path / "data").mkdir()
    (tmp_path / "data/real.csv").write_text("old")
    (tmp_path / "latest.csv").symlink_to("middle.csv")
    (tmp_path / "middle.csv").symlink_to("data/real.csv")
    before = (tmp_path / "data/real.csv").stat().st_ino
    write(tmp_path / "latest.csv")
    assert (tmp_path / "latest.csv").readlink() == pathlib.Path("middle.csv")
    assert (tmp_path / "data/real.csv").read_bytes() == b"new"
    assert (tmp_path / "data/real.csv").stat().st_ino != before  # replaced, not overwritten
    assert names(tmp_path / "data") == ["real.csv"]


def test_a_link_to_nothing_makes_its_target(tmp_path, write):
    (tmp_path / "latest.csv").symlink_to("later/real.csv")
    write(tmp_path / "latest.csv")
    assert (tmp_path / "later/real.csv").read_bytes() == b"new"
    assert (tmp_path / "latest.csv").is_symlink()


def test_links_in_a_circle_are_an_error_that_names_the_file(tmp_path, write):
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    with pytest.raises(OSError, match="symbolic links") as caught:
        write(tmp_path / "a")
    assert caught.value.filename == str(tmp_path / "a")


@pytest.mark.parametrize("linked", [False, True])
def test_a_device_stays_a_device(tmp_path, write, linked):
    device = path = tmp_path / "null"
    try:
        os.mknod(device, stat.S_IFCHR | 0o666, os.makedev(1, 3))
        device.read_bytes()
    except PermissionError:
        pytest.skip("this user or container makes no devices")
    if linked:
        path = tmp_path / "link"
        path.symlink_to("null")
    write(path)
    facts = device.stat()
    assert stat.S_ISCHR(facts.st_mode) and facts.st_rdev == os.makedev(1, 3)
    assert names(tmp_path) == (["link", "null"] if linked else ["null"])


def test_the_reader_of_a_pipe_has_the_content(tmp_path, write):
    pipe, found = tmp_path / "pipe", []
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: found.append(pipe.read_bytes()), daemon=True)
    reader.start()
    write(pipe)
    reader.join(10)
    assert found == [b"new"] and pipe.is_fifo()
    assert names(tmp_path) == ["pipe"]


@pytest.mark.parametrize("form", ["/dev/fd/{}", "/proc/self/fd/{}"])
def test_a_descriptor_has_the_content(write, form):
    """As `>(...)` and /dev/stdout: also a socket, which cannot be opened by a path."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        write(pathlib.Path(form.format(ours.fileno())))
        assert theirs.recv(10) == b"new"


def test_a_file_behind_a_descriptor_is_continued(tmp_path, write):
    """As /dev/stdout behind `>> log`: what the file holds stays."""
    with (tmp_path / "log").open("ab", buffering=0) as log:
        log.write(b"old ")
        write(pathlib.Path(f"/dev/fd/{log.fileno()}"))
    assert (tmp_path / "log").read_bytes() == b"old new"


def test_a_closed_descriptor_is_an_error_that_names_it(write):
    with pytest.raises(OSError, match="Bad file descriptor: '/dev/fd/999'"):
        write(pathlib.Path("/dev/fd/999"))


def test_a_folder_is_an_error_that_names_it(tmp_path, write):
    with pytest.raises(IsADirectoryError) as caught:
        write(tmp_path)
    assert caught.value.filename == str(tmp_path)
    assert names(tmp_path) == []


def test_a_file_that_cannot_be_renamed_over_is_written_in_place(tmp_path, write, monkeypatch):
    """As one that a container mounts by itself: the system says that it is busy."""

    def fail(self, target):
        raise OSError(errno.EBUSY, os.strerror(errno.EBUSY), str(self), None, str(target))

    path = tmp_path / "out.csv"
    path.write_bytes(b"old content")
    before = path.stat().st_ino
    monkeypatch.setattr(pathlib.Path, "replace", fail)
    write(path)
    assert path.read_bytes() == b"new" and path.stat().st_ino == before
    assert names(tmp_path) == ["out.csv"]


def test_a_file_in_a_folder_without_write_permission_is_written_in_place(tmp_path, write, monkeypatch):
    path = tmp_path / "out.csv"
    path.write_bytes(b"old content")
    before = path.stat().st_ino
    monkeypatch.setattr(files.os, "access", lambda place, mode: pathlib.Path(place) == path)
    write(path)
    assert path.read_bytes() == b"new" and path.stat().st_ino == before
    assert names(tmp_path) == ["out.csv"]


def test_a_name_of_the_greatest_length(tmp_path, write):
    path = tmp_path / f"{'ü' * 125}.json"
    write(path)
    assert path.read_bytes() == b"new"
