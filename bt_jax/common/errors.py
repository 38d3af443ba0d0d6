"""The exception for mistakes of the user."""


class UsageError(Exception):
    """A wrong flag, field, path or file.

    The message is one line that names the cause and says what to do. Commands print it without a traceback and exit
    with status 2 (see `cli.py`). Users of the library can catch it.
    """
