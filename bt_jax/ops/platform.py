"""Where an array is written to memory: what a CPU needs to be told."""

from typing import TypeVar

import jax
from jax.experimental.xla_metadata import set_xla_metadata

_T = TypeVar("_T")


def materialise(tree: _T) -> _T:
    """The same arrays, on a CPU written to memory before anything reads them.

    XLA's CPU backend repeats a chain of elementwise operations for each of its readers: inside reductions and
    transposing copies, where it runs as scalar code, and per pixel for what is one value per channel. (An
    `optimization_barrier` is gone before fusion.) A call that must not be inlined ends the chain and costs nothing.
    Accelerators fuse such chains well and are left alone.
    """
    return jax.lax.platform_dependent(tree, cpu=_call, default=_identity)


def _call(tree: _T) -> _T:
    with set_xla_metadata(inlineable="false"):
        return _compiled_identity(tree)


def _identity(tree: _T) -> _T:
    return tree


_compiled_identity = jax.jit(_identity)
