import errno
import os

import pytest

from bt_jax.common import locks
from bt_jax.common.errors import UsageError


def failing(error: int):
    """A function that fails as those of a file system without locks."""

    def take(file, operation):
        raise OSError(error, os.strerror(error))

    return take


def test_a_second_lock_is_refused_until_the_first_ends(tmp_path, capsys):
    with (
        locks.lock(tmp_path / "lock", busy="wait"),
        pytest.raises(UsageError, match=r"^wait$"),
        locks.lock(tmp_path / "lock", busy="wait"),
    ):
        pytest.fail("both hold it")
    with locks.lock(tmp_path / "lock", busy="wait"):
        pass
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("error", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL])
def test_posix_locks_take_the_place_of_flock(tmp_path, monkeypatch, capsys, error):
    taken = []
    monkeypatch.setattr(locks.fcntl, "flock", failing(error))
    monkeypatch.setattr(locks.fcntl, "lockf", lambda file, operation: taken.append(operation))
    with locks.lock(tmp_path / "lock", busy="wait"):
        assert taken == [locks.fcntl.LOCK_EX | locks.fcntl.LOCK_NB]
    assert capsys.readouterr() == ("", "")


def test_a_file_system_without_locks_is_named_in_a_warning(tmp_path, monkeypatch, capsys):
    for name in ("flock", "lockf"):
        monkeypatch.setattr(locks.fcntl, name, failing(errno.ENOSYS))
    with locks.lock(tmp_path / "lock", busy="wait"):
        pass
    warning = f"warning: the file system of {tmp_path} has no locks: start no second command that writes there\n"
    assert capsys.readouterr() == ("", warning)


def test_other_errors_name_the_file(tmp_path, monkeypatch):
    monkeypatch.setattr(locks.fcntl, "flock", failing(errno.EIO))
    with pytest.raises(OSError, match="Input/output error") as caught, locks.lock(tmp_path / "lock", busy="wait"):
        pytest.fail("it has no lock")
    assert caught.value.filename == str(tmp_path / "lock")
