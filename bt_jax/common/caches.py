"""The folder for downloads, compiled programs and features, also where there is no home folder to write to."""

import os
import pathlib
import tempfile

from bt_jax.common import files
from bt_jax.common.errors import UsageError


def find_home() -> pathlib.Path | None:
    """Returns the home folder; None for a user without an account and without `$HOME`, as in containers."""
    try:
        return pathlib.Path.home()
    except RuntimeError:
        return None


def get_cache_directory() -> pathlib.Path:
    """Returns the folder for downloads and compiled programs, which may not exist yet.

    This is `$BT_CACHE` if set, else `bt_jax` in `$XDG_CACHE_HOME` or `~/.cache`. Where that can neither be read nor
    made, it is a folder of this user alone in the folder for temporary files.

    Raises:
      UsageError: the folder for temporary files holds one of that name that others can write to.
    """
    if chosen := os.environ.get("BT_CACHE"):
        return files.expand(chosen)
    home = find_home()
    above = os.environ.get("XDG_CACHE_HOME") or (home / ".cache" if home else None)
    if above is not None:
        folder = pathlib.Path(above) / "bt_jax"
        if os.access(folder, os.R_OK | os.X_OK) or can_write(folder):
            return folder
    return _make_private_folder()


def can_write(folder: pathlib.Path) -> bool:
    """Returns whether this user may write to a folder, or make it if it does not exist."""
    there = files.find_existing(folder)
    return there.is_dir() and os.access(there, os.W_OK | os.X_OK)


def _make_private_folder() -> pathlib.Path:
    folder = pathlib.Path(tempfile.gettempdir()) / f"bt_jax_{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    facts = folder.lstat()
    if facts.st_uid != os.getuid() or facts.st_mode & 0o077:  # another user could put programs into it
        raise UsageError(f"others can write to {folder}: set $BT_CACHE to a folder of your own for downloads")
    return folder
