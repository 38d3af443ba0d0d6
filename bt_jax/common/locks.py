"""Locks on folders, which end with the process, however it ends."""

import contextlib
import errno
import fcntl
import pathlib
import sys
from collections.abc import Iterator

from bt_jax.common.errors import UsageError

_UNSUPPORTED = {errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL}


@contextlib.contextmanager
def lock(path: pathlib.Path, *, busy: str) -> Iterator[None]:
    """Locks a file, creating it if needed, while the block runs.

    Network file systems may support POSIX locks instead of `flock`, or none. Without any, it warns and goes on.

    Args:
      path: the file; its content does not matter.
      busy: the message if another process holds the lock.

    Raises:
      UsageError: another process holds the lock.
    """
    with path.open("w", encoding="utf-8") as file:
        for take in (fcntl.flock, fcntl.lockf):
            try:
                take(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                raise UsageError(busy) from None
            except OSError as error:
                if error.errno not in _UNSUPPORTED:
                    raise OSError(error.errno, error.strerror, str(path)) from error
        else:
            print(
                f"warning: the file system of {path.parent} has no locks: start no second command that writes there",
                file=sys.stderr,
            )
        yield
