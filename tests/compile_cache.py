"""Programs that XLA compiled for tests, shared by the processes of a session and kept for the next one.

A session writes into a folder of its own, which begins with hard links to what was kept. A process that a test kills
while it writes leaves half a program there; only whole ones are kept.
"""

import os
import pathlib
import shutil
import zlib

SUFFIX = "-cache"  # of the files that JAX writes; they are compressed by zlib
BYTES = 2**30  # of the programs that are kept


def open_session(folder: pathlib.Path) -> pathlib.Path:
    """Makes the folder of a session, as `$BT_CACHE`, and lets this process and those it starts use it.

    Args:
      folder: of all sessions.
    """
    for path in folder.glob("session-*"):
        if not _is_running(int(path.name.partition("-")[2])):  # it was killed
            shutil.rmtree(path, ignore_errors=True)
    session = folder / f"session-{os.getpid()}"
    (session / "xla").mkdir(parents=True)
    for path in _list_kept(folder):
        os.link(path, session / "xla" / path.name)
    os.environ["BT_CACHE"] = str(session)
    # Read by JAX when it is imported; the commands take theirs from $BT_CACHE.
    os.environ["JAX_COMPILATION_CACHE_DIR"] = str(session / "xla")
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.3"
    return session


def close_session(session: pathlib.Path, *, limit: int = BYTES) -> None:
    """Keeps the session's new programs that are whole, of all kept ones the newest, and removes its folder.

    Args:
      session: as returned by `open_session`.
      limit: bytes of the programs that are kept.
    """
    folder = session.parent
    (folder / "kept").mkdir(exist_ok=True)
    for path in (session / "xla").glob(f"*{SUFFIX}"):
        kept = folder / "kept" / path.name
        if not kept.exists() and is_whole(path.read_bytes()):
            path.replace(kept)
    size = 0
    for path in sorted(_list_kept(folder), key=lambda path: path.stat().st_mtime, reverse=True):
        size += path.stat().st_size
        if size > limit:
            path.unlink()
    shutil.rmtree(session, ignore_errors=True)  # a process that was killed may still write


def is_whole(content: bytes) -> bool:
    """Returns whether a file holds all that was written to it, by the checksum at its end."""
    try:
        zlib.decompress(content)
    except zlib.error:
        return False
    return True


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # another user's
        return True
    return True


def _list_kept(folder: pathlib.Path) -> list[pathlib.Path]:
    return list((folder / "kept").glob(f"*{SUFFIX}"))
