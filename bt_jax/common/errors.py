"""The exception for mistakes of the user, and sentences about errors of the system."""

import errno
import os

_ADVICE = {
    errno.ENOSPC: "free space on its disk, or choose another place",
    errno.EDQUOT: "free space of your quota, or choose another place",
    errno.EACCES: "change its permissions, or choose another place",
    errno.EPERM: "change its permissions, or choose another place",
    errno.EROFS: "choose a place that can be written to",
    errno.EPIPE: "its reader has gone",
}


class UsageError(Exception):
    """A wrong flag, field, path or file.

    The message is one line that names the cause and says what to do. Commands print it without a traceback and exit
    with status 2 (see `cli.py`). Users of the library can catch it.
    """


def describe_os_error(error: OSError) -> str:
    """Describes an error of the system in one line: the file, what happened, and what to do if that is known."""
    if error.strerror is None:
        return " ".join(str(error).split()) or type(error).__name__
    named = [os.fsdecode(name) for name in (error.filename, error.filename2) if isinstance(name, str | bytes)]
    happened = error.strerror[:1].lower() + error.strerror[1:]
    advice = _ADVICE.get(error.errno or 0)
    return ": ".join([*([" -> ".join(named)] if named else []), happened, *([advice] if advice else [])])
