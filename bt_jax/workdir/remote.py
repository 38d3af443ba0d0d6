"""Workdirs in a bucket (`gs://bucket/run`): a local copy, where files can be appended and replaced, and its upload.

Only checkpoints are written to the bucket directly, by all hosts at once: see `checkpoint`. Needs `gcsfs`, or the
package that `fsspec` requires for the scheme of the path.
"""

import contextlib
import os
import pathlib
import re
import shutil
from collections.abc import Iterator

from etils import epath

from bt_jax.common import caches, waiting
from bt_jax.common.errors import UsageError

_POINTER = "bucket"  # a file in the copy that holds the address of the original
_NOT_COPIED = {"checkpoints", "damaged_checkpoints", "lock", _POINTER}


def is_remote(path: str | os.PathLike[str]) -> bool:
    """Returns whether a path is in a bucket."""
    return "://" in str(path)


def get_bucket(folder: str | os.PathLike[str]) -> epath.Path | None:
    """Returns the folder in a bucket that a local folder is the copy of; None for other folders."""
    if is_remote(folder):
        return epath.Path(folder)
    path = pathlib.Path(folder)
    for above, below in ((path, ""), (path.parent, path.name)):  # the folder of a run, or of a fold of it
        if (above / _POINTER).is_file():
            return epath.Path((above / _POINTER).read_text(encoding="utf-8").strip()) / below
    return None


class Mirror:
    """A local copy of a workdir in a bucket, with a record of what the bucket has already.

    Args:
      url: of the workdir.
      process: index of the process; each has its own copy.
    """

    def __init__(self, url: str, *, process: int = 0):
        name = re.sub(r"[^\w.\-]+", "_", f"{url.rstrip('/')}_{process}")
        self._remote, self.folder = epath.Path(url), caches.get_cache_directory() / "buckets" / name
        self._there: dict[str, tuple[int, int]] = {}

    def pull(self) -> pathlib.Path:
        """Replaces the copy with the content of the bucket, without checkpoints, and returns its folder.

        Raises:
          UsageError: the bucket cannot be read.
        """
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        with self._report_errors_in_one_line("read"), waiting.report(f"copying {self._remote}"):
            if self._remote.exists():
                self._pull(self._remote, self.folder)
        (self.folder / _POINTER).write_text(f"{self._remote}\n", encoding="utf-8")
        self._there = self._list_local()
        return self.folder

    def push(self) -> None:
        """Copies changed files to the bucket, and deletes from the bucket the files that were deleted here.

        Raises:
          UsageError: the bucket cannot be written.
        """
        now = self._list_local()
        with self._report_errors_in_one_line("written"), waiting.report(f"copying files to {self._remote}"):
            for name in sorted(now.keys() | self._there.keys()):
                remote = self._remote / name
                if name not in now:
                    remote.unlink(missing_ok=True)
                elif now[name] != self._there.get(name):
                    remote.parent.mkdir(parents=True, exist_ok=True)
                    remote.write_bytes((self.folder / name).read_bytes())
        self._there = now

    @contextlib.contextmanager
    def _report_errors_in_one_line(self, done: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # each file system raises its own
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            raise UsageError(f"{self._remote} cannot be {done} ({reason})") from error

    def _pull(self, remote: epath.Path, folder: pathlib.Path) -> None:
        for path in remote.iterdir():
            if path.name in _NOT_COPIED:
                continue
            if path.is_dir():
                (folder / path.name).mkdir()
                self._pull(path, folder / path.name)
            else:
                (folder / path.name).write_bytes(path.read_bytes())

    def _list_local(self) -> dict[str, tuple[int, int]]:
        """Returns size and modification time by path, of all files that are not being written."""
        found = {}
        for path in self.folder.rglob("*"):
            parts = path.relative_to(self.folder).parts
            if parts and not parts[-1].startswith(".") and not _NOT_COPIED & set(parts) and path.is_file():
                facts = path.stat()
                found["/".join(parts)] = facts.st_size, facts.st_mtime_ns
        return found
