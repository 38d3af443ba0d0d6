"""Operations whose form depends on the platform, and control over where XLA's CPU backend writes an array to memory."""

import contextlib
import contextvars
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import jax
from jax.experimental.xla_metadata import set_xla_metadata

_T = TypeVar("_T")

_KNOWN: contextvars.ContextVar[str] = contextvars.ContextVar("known", default="")


@contextlib.contextmanager
def trace_for(platform: str) -> Iterator[None]:
    """Within it, `select_form` traces only the form of a platform, such as `cpu`.

    A training step is traced and lowered in about two thirds of the time then. It belongs inside of the function that
    is traced: what `jax.jit` traced before is kept, so nothing that calls `select_form` may be jitted by itself, other
    than the form of one platform.
    """
    token = _KNOWN.set(platform)
    try:
        yield
    finally:
        _KNOWN.reset(token)


def select_form(*arguments: Any, default: Callable[..., Any], **forms: Callable[..., Any]) -> Any:
    """Calls the form of the platform that the program runs on: `jax.lax.platform_dependent`, or see `trace_for`.

    Args:
      *arguments: of the form, trees of arrays.
      default: the form of all other platforms.
      **forms: by platform; all return the same shapes and dtypes.
    """
    if platform := _KNOWN.get():
        return forms.get(platform, default)(*arguments)
    return jax.lax.platform_dependent(*arguments, default=default, **forms)


def materialise(tree: _T) -> _T:
    """Returns the same arrays, written to memory on a CPU before anything reads them.

    XLA's CPU backend repeats a chain of elementwise operations for each of its readers: inside reductions and
    transposing copies, where it runs as scalar code, and at every pixel for values that are the same for a channel. (An
    `optimization_barrier` is removed before fusion.) A call that must not be inlined ends the chain at no cost.
    Accelerators fuse such chains well, so there this function does nothing.
    """
    same: _T = select_form(tree, cpu=_call, default=_identity)
    return same


def _call(tree: _T) -> _T:
    with set_xla_metadata(inlineable="false"):
        return _compiled_identity(tree)


def _identity(tree: _T) -> _T:
    return tree


_compiled_identity = jax.jit(_identity)
