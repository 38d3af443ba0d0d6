"""How every command starts and ends: flags, logging, one clear line for what the user got wrong."""

import ctypes
import logging
import os
import platform
import re
import sys
import threading
import warnings
from collections.abc import Callable
from typing import NoReturn

from absl import flags
from absl import logging as absl_logging

from bt_jax import files
from bt_jax.errors import UsageError


def run(main: Callable[[], int | None]) -> NoReturn:
    """Parses the flags, runs `main`, exits: 0 on success, 2 with one line for a wrong flag, field, path or file.

    `--help` prints the docstring of the command's module and its flags.
    """
    _quiet()
    try:
        _parse(sys.argv)
        status = main()
    except UsageError as error:
        _fail(str(error))
    except OSError as error:  # a folder that cannot be written, a full disk
        _fail(one_line(error))
    except KeyboardInterrupt:
        _fail("interrupted", status=130)
    _leave(status or 0)


def prepare_to_compute() -> None:
    """For commands that compute, before they do: programs are kept, and memory is.

    XLA's compiled programs stay in the cache folder, so that a second start need not compile again.
    """
    import jax  # only where a command will compute

    keep_freed_memory()
    jax.config.update("jax_compilation_cache_dir", str(files.cache_directory() / "xla"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)


def keep_freed_memory() -> None:
    """glibc no longer returns large freed blocks to the kernel.

    A training step on a CPU takes gigabytes and gives them back; that the kernel zeroes them anew each time is a tenth
    of the step. Other platforms' C libraries are left as they are.
    """
    if platform.libc_ver()[0] == "glibc":
        m_trim_threshold, m_mmap_max = -1, -4  # of malloc.h
        c_library = ctypes.CDLL(None)
        c_library.mallopt(m_mmap_max, 0)
        c_library.mallopt(m_trim_threshold, 2**31 - 1)


def _parse(argv: list[str]) -> None:
    if any(argument in ("--help", "-h", "-help", "--helpfull") for argument in argv[1:]):
        print(_help())
        sys.exit(0)
    try:
        rest = flags.FLAGS(argv)
    except (AttributeError, KeyError) as error:  # what ml_collections raises for a field that is not there
        name = str(error).strip("\"'")
        hint = re.search(r'Did you mean "[^"]*" instead of "[^"]*"\?', name)
        raise UsageError(
            hint[0] if hint else f"the configuration has no field {name!r}: its file lists them"
        ) from error
    except (flags.Error, TypeError, ValueError, OSError) as error:
        raise UsageError(one_line(error)) from error
    if len(rest) > 1:
        raise UsageError(f"unexpected argument {rest[1]!r}: flags are written as --name=value (see --help)")


def one_line(error: BaseException) -> str:
    """The message of an error without line breaks; of one that quotes a traceback, the traceback's last line."""
    text = str(error).strip()
    if "Traceback (most recent call last)" in text:
        text = text.splitlines()[-1].partition(": ")[2]
    return " ".join(text.split())


def _help() -> str:
    module = sys.modules["__main__"]
    own = flags.FLAGS.module_help(module)
    return f"{(module.__doc__ or '').strip()}\n\nFlags:{own}"


def _fail(message: str, *, status: int = 2) -> NoReturn:
    print(f"error: {message}", file=sys.stderr)
    _leave(status)


def _leave(status: int) -> NoReturn:
    """Exits, without waiting for a thread that cannot be stopped: the compiler, which may take a minute."""
    sys.stdout.flush()
    sys.stderr.flush()
    if any(not thread.daemon for thread in threading.enumerate() if thread is not threading.main_thread()):
        os._exit(status)
    sys.exit(status)


def _quiet() -> None:
    """Libraries report to a person only what he can act on."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    absl_logging.set_verbosity(absl_logging.WARNING)
    absl_logging.set_stderrthreshold("warning")
    for name in ("orbax", "jax", "absl"):
        logging.getLogger(name).setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", message="Sharding info not provided when restoring")
