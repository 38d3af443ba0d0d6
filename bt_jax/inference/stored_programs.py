"""Forward passes that JAX traced before, kept on disk: a command that finds one need not import the network's code.

Of the seconds between the start of `predict` and its record, most went into importing Flax, building the network and
tracing it. The program that results is small, and the same every time. `jax.export` serialises it without pickle, and
JAX reads it for as long as its version is the same.
"""

import functools
import hashlib
import importlib.metadata
import json
import pathlib
import threading
from collections.abc import Callable
from typing import Any

import jax
import jax.export
import numpy as np

from bt_jax.common import caches, files
from bt_jax.common.errors import UsageError

# (params, batch_stats, images [B, ...] uint8) -> arrays with B rows
Function = Callable[..., tuple[jax.Array, ...]]

_FORMAT = 1
_DIGEST = 32  # bytes at the start of a file, the hash of the rest
_SETTINGS = ("jax_default_matmul_precision", "jax_enable_x64")  # of JAX, which a traced program keeps
# What decides how a network is traced, relative to the package.
_SOURCES = ("models/*.py", "ops/*.py", "inference/forward.py")


class StoredForward:
    """A forward pass whose programs, one for each batch size, are read from disk, or traced and kept there.

    Thread-safe. A folder that cannot be read or written to, and files that are damaged, cost time and nothing else.

    Args:
      facts: all that the function depends on, but for this package and JAX; values that JSON can hold.
      weights: the first arguments, or arrays of the same shapes: (params, batch_stats).
      make: makes the jitted function; called only if a program is not there.
    """

    def __init__(self, facts: dict[str, Any], weights: tuple[Any, ...], make: Callable[[], Any]):
        self._make, self._lock = functools.cache(make), threading.Lock()
        self._functions: dict[str, Function] = {}
        self._folder = _find_folder(_hash_facts(facts, weights))

    @property
    def is_known(self) -> bool:
        """Whether a program for these facts and shapes was kept before, so that they are known to fit."""
        try:
            return any(map(_read, self._folder.glob("*.jax_export") if self._folder else ()))
        except OSError:  # the folder may be one of another user
            return False

    def __call__(self, params: Any, batch_stats: Any, images: np.ndarray) -> tuple[jax.Array, ...]:
        """Computes the outputs of a batch."""
        # A traced program keeps these settings of JAX, so they are asked for at each call, as `jax.jit` does.
        settings = json.dumps([getattr(jax.config, name) for name in _SETTINGS])
        name = f"{len(images)}_{hashlib.sha256(settings.encode()).hexdigest()[:8]}.jax_export"
        with self._lock:
            if name not in self._functions:
                self._functions[name] = self._prepare(name, params, batch_stats, images)
        return self._functions[name](params, batch_stats, images)

    def _prepare(self, name: str, *arguments: Any) -> Function:
        path = self._folder / name if self._folder else None
        content = _read(path) if path else None
        if content is None:
            content = bytes(jax.export.export(self._make())(*arguments).serialize())
            if path:
                _write(path, content)
        function: Function = jax.jit(jax.export.deserialize(bytearray(content)).call)
        return function


def _find_folder(name: str) -> pathlib.Path | None:
    try:
        return caches.get_cache_directory() / "programs" / name
    except (OSError, UsageError):  # there is none that is safe to use
        return None


def _read(path: pathlib.Path) -> bytes | None:
    """Returns what `_write` kept, or None if it is not there or damaged."""
    try:
        content = path.read_bytes()
    except OSError:
        return None
    digest, rest = content[:_DIGEST], content[_DIGEST:]
    return rest if hashlib.sha256(rest).digest() == digest else None


def _write(path: pathlib.Path, content: bytes) -> None:
    if caches.can_write(path.parent):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            files.write_bytes(path, hashlib.sha256(content).digest() + content)
        except OSError:  # a full disk, say: the program is traced again next time
            return


def _hash_facts(facts: dict[str, Any], weights: tuple[Any, ...]) -> str:
    shapes = [
        (jax.tree_util.keystr(path), list(leaf.shape), str(leaf.dtype))
        for path, leaf in jax.tree_util.tree_leaves_with_path(weights)
    ]
    everything = [_FORMAT, _hash_package(), jax.__version__, jax.default_backend(), facts, shapes]
    return hashlib.sha256(json.dumps(everything, sort_keys=True).encode()).hexdigest()[:32]


@functools.cache
def _hash_package() -> str:
    """Returns a hash of the code that makes a program of a network: what is kept by other code is not used."""
    root = pathlib.Path(__file__).parent.parent
    digest = hashlib.sha256(importlib.metadata.version("flax").encode())
    for pattern in _SOURCES:
        for path in sorted(root.glob(pattern)):
            digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()
