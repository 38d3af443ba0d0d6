"""The one exception that is meant for the person at the keyboard."""


class UsageError(Exception):
    """A wrong flag, field, path or file.

    The message is one line that names the culprit and says what to do. Commands print it without a traceback and
    exit with status 2 (see `cli.py`); library users can catch it.
    """
