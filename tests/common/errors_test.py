import errno
import os

import pytest

from bt_jax.common.errors import describe_os_error


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (
            OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "a.csv"),
            "a.csv: no space left on device: free space on its disk, or choose another place",
        ),
        (
            OSError(errno.EACCES, os.strerror(errno.EACCES), b"a.csv"),
            "a.csv: permission denied: change its permissions, or choose another place",
        ),
        (
            OSError(errno.EROFS, os.strerror(errno.EROFS), "a", None, "b"),
            "a -> b: read-only file system: choose a place that can be written to",
        ),
        (OSError(errno.EPIPE, os.strerror(errno.EPIPE), "pipe"), "pipe: broken pipe: its reader has gone"),
        (OSError(errno.EIO, os.strerror(errno.EIO)), "input/output error"),
        (OSError("the server\nhas gone"), "the server has gone"),
        (TimeoutError(), "TimeoutError"),
    ],
)
def test_errors_of_the_system_are_one_line_that_says_what_to_do(error, line):
    assert describe_os_error(error) == line
