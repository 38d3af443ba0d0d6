"""Atomic writes: a reader sees the old content or the new content, never a part."""

import contextlib
import csv
import io
import json
import math
import os
import pathlib
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

Path = str | os.PathLike[str]


@contextlib.contextmanager
def replace_atomically(path: Path) -> Iterator[pathlib.Path]:
    """Yields a temporary path beside `path` and renames it to `path` when the block succeeds.

    The temporary name keeps the suffix, since writers such as matplotlib choose the format by it. On an error, the
    temporary file is removed and `path` is unchanged.
    """
    target = pathlib.Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.stem}.{uuid.uuid4().hex}{target.suffix}")
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


def write_bytes(path: Path, content: bytes) -> None:
    """Replaces `path` with `content` atomically."""
    with replace_atomically(path) as temporary:
        temporary.write_bytes(content)


def write_text(path: Path, content: str) -> None:
    """Replaces `path` with `content` in UTF-8 atomically."""
    write_bytes(path, content.encode())


def write_json(path: Path, content: Any) -> None:
    """Replaces `path` with `content` as indented JSON atomically. Non-finite numbers become null."""
    write_text(path, json.dumps(make_json_safe(content), indent=2, allow_nan=False, ensure_ascii=False) + "\n")


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Replaces `path` with a CSV table with the given header atomically."""
    write_text(path, format_csv(header, rows))


def read_csv(path: Path) -> list[dict[str, str]]:
    """Reads a CSV table with a header: one dict of strings for each row."""
    with pathlib.Path(path).open(newline="") as file:
        return list(csv.DictReader(file))


def format_csv(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Formats a CSV table with the given header."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return buffer.getvalue()


def make_json_safe(content: Any) -> Any:
    """Converts a nested structure to plain Python numbers, lists and dicts, with None for NaN and infinities."""
    if isinstance(content, Mapping):
        return {str(key): make_json_safe(value) for key, value in content.items()}
    if hasattr(content, "tolist"):  # NumPy and JAX arrays and scalars
        return make_json_safe(content.tolist())
    if isinstance(content, list | tuple):
        return [make_json_safe(value) for value in content]
    if isinstance(content, float) and not math.isfinite(content):
        return None
    return content


def get_cache_directory() -> pathlib.Path:
    """Returns the folder for downloads and compiled programs.

    This is `$BT_CACHE` if set, else `bt_jax` in `$XDG_CACHE_HOME` or `~/.cache`."""
    if chosen := os.environ.get("BT_CACHE"):
        return pathlib.Path(chosen).expanduser()
    return pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache") / "bt_jax"
