"""Control over where XLA's CPU backend writes an array to memory."""

from typing import TypeVar

import jax
from jax.experimental.xla_metadata import set_xla_metadata

_T = TypeVar("_T")


def materialise(tree: _T) -> _T:
    """Returns the same arrays, written to memory on a CPU before anything reads them.

    XLA's CPU backend repeats a chain of elementwise operations for each of its readers: inside reductions and
    transposing copies, where it runs as scalar code, and at every pixel for values that are the same for a channel. (An
    `optimization_barrier` is removed before fusion.) A call that must not be inlined ends the chain at no cost.
    Accelerators fuse such chains well, so there this function does nothing.
    """
    return jax.lax.platform_dependent(tree, cpu=_call, default=_identity)


def _call(tree: _T) -> _T:
    with set_xla_metadata(inlineable="false"):
        return _compiled_identity(tree)


def _identity(tree: _T) -> _T:
    return tree


_compiled_identity = jax.jit(_identity)
