"""What every command shares: flags, logging, and one clear line for a mistake of the user."""

import contextlib
import ctypes
import importlib.util
import io
import logging
import mmap
import os
import pathlib
import platform
import re
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable
from typing import NoReturn

from absl import flags
from absl import logging as absl_logging

from bt_jax.common import caches
from bt_jax.common.errors import UsageError, describe_os_error

HUGE_PAGE = 2**21  # bytes
_PACKAGE = pathlib.Path(__file__).parents[1]
BEGAN = time.monotonic()  # the start of the command, less the tenth of a second that Python takes to get here


def run(main: Callable[..., int | None], *, takes_arguments: bool = False) -> NoReturn:
    """Parses the flags, runs `main` and exits: 0 on success, 2 with one line for a wrong flag, field, path or file.

    `--help` prints the docstring of the command's module and its flags.

    Args:
      main: the command. Its return value is the exit status.
      takes_arguments: whether to pass `main` the list of positional arguments, which may be mixed with flags.
    """
    _quieten_libraries()
    _prepare_streams()
    try:
        arguments = _parse(sys.argv, takes_arguments=takes_arguments)
        status = main(arguments) if takes_arguments else main()
    except UsageError as error:
        _fail(str(error))
    except BrokenPipeError as error:
        if error.filename is not None:  # not the standard output, but a pipe that a flag names
            _fail(describe_os_error(error))
        end_output()  # what reads the standard output, such as `head`, has enough, and the work is not done
        _exit(128 + signal.SIGPIPE)
    except OSError as error:  # a folder that cannot be written, a full disk
        _fail(describe_os_error(error))
    except KeyboardInterrupt:
        _fail("interrupted", status=130)
    _exit(status or 0)


def prepare_to_compute() -> None:
    """Prepares the process to compute: enables the compilation cache and saves memory.

    The programs that XLA compiles stay in the cache folder, so a second start does not compile them again.
    """
    import jax  # only where a command will compute

    save_memory()
    folder = caches.get_cache_directory() / "xla"
    if caches.can_write(folder):
        jax.config.update("jax_compilation_cache_dir", str(folder))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)


def save_memory() -> None:
    """Makes JAX run one program after the other on a CPU, in memory that is kept between them.

    By default, JAX queues programs, and each of them holds its memory while it waits. With six training steps of
    EfficientNet-B1 in the queue a process took 7.1 GB, and without the queue 2.5 GB.
    """
    import jax

    jax.config.update("jax_cpu_enable_async_dispatch", False)
    _keep_freed_memory()


def _keep_freed_memory() -> None:
    """Makes glibc keep freed memory for the next step, in huge pages where the kernel gives them on request.

    A training step on a CPU allocates gigabytes and frees them. Getting zeroed pages from the kernel anew takes a tenth
    of the step, and small pages cost as much again. All threads share one arena because other arenas return blocks of
    more than 64 MiB at once. Other C libraries are left as they are, and so is a process that may compute on a GPU or
    TPU: there memory on the host is small, and the threads of the compiler would wait for each other at the one arena.
    """
    if platform.libc_ver()[0] != "glibc" or _may_use_accelerator():
        return
    m_trim_threshold, m_mmap_max, m_arena_max = -1, -4, -8  # of malloc.h
    c_library = ctypes.CDLL(None)
    c_library.mallopt(m_arena_max, 1)
    c_library.mallopt(m_mmap_max, 0)
    c_library.mallopt(m_trim_threshold, -1)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        _ask_for_huge_pages(c_library)


def _may_use_accelerator() -> bool:
    """Returns whether JAX has a plugin for a GPU or TPU and may use it. Does not start a backend, which comes later."""
    plugins = any(importlib.util.find_spec(name) for name in ("jax_plugins", "libtpu"))
    return plugins and os.environ.get("JAX_PLATFORMS") != "cpu"


def _ask_for_huge_pages(c_library: ctypes.CDLL) -> None:
    """Requests huge pages for the range that the heap will grow into, up to half of the machine's memory.

    The request does not allocate the memory."""
    size = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
    c_library.malloc.restype = ctypes.c_void_p
    start = c_library.malloc(ctypes.c_size_t(size))
    if start is None:  # a system that does not overcommit memory
        return
    first, end = -(-start // HUGE_PAGE) * HUGE_PAGE, (start + size) // HUGE_PAGE * HUGE_PAGE
    c_library.madvise(ctypes.c_void_p(first), ctypes.c_size_t(end - first), mmap.MADV_HUGEPAGE)
    c_library.free(ctypes.c_void_p(start))


def _parse(argv: list[str], *, takes_arguments: bool) -> list[str]:
    if any(argument in ("--help", "-h", "-help", "--helpfull") for argument in argv[1:]):
        print(_format_help())
        sys.exit(0)
    flags.FLAGS.set_gnu_getopt(takes_arguments)
    try:
        rest = flags.FLAGS([argv[0], *map(_find_path, argv[1:])])
    except (AttributeError, KeyError) as error:  # what ml_collections raises for an unknown field
        name = str(error).strip("\"'")
        hint = re.search(r'Did you mean "[^"]*" instead of "[^"]*"\?', name)
        raise UsageError(
            hint[0] if hint else f"the configuration has no field {name!r}: its file lists them"
        ) from error
    except (flags.Error, TypeError, ValueError, OSError) as error:
        raise UsageError(format_error(error)) from error
    if len(rest) > 1 and not takes_arguments:
        raise UsageError(f"unexpected argument {rest[1]!r}: flags are written as --name=value (see --help)")
    return rest[1:]


def _find_path(argument: str) -> str:
    """Expands `~`, which shells leave in `--flag=~/file` and patterns in quotes, and finds packaged configurations."""
    flag, equals, value = argument.partition("=") if argument.startswith("-") else ("", "", argument)
    if value.startswith("~/"):
        value = os.path.expanduser(value)  # noqa: PTH111
    elif value.startswith("configs/") and not pathlib.Path("configs").exists():
        value = str(_PACKAGE / value)
    return f"{flag}{equals}{value}"


def format_error(error: BaseException) -> str:
    """Returns the message of an error in one line: the last line of a traceback if the message quotes one."""
    text = str(error).strip()
    if "Traceback (most recent call last)" in text:
        text = text.splitlines()[-1].partition(": ")[2]
    return " ".join(text.split())


def _format_help() -> str:
    module = sys.modules["__main__"]
    own = flags.FLAGS.module_help(module)
    return f"{(module.__doc__ or '').strip()}\n\nFlags:{own}"


def _fail(message: str, *, status: int = 2) -> NoReturn:
    print(f"error: {message}", file=sys.stderr)
    _exit(status)


def _exit(status: int) -> NoReturn:
    """Exits without waiting for threads that cannot be stopped, such as the compiler, which may take a minute."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        end_output()
    except OSError as error:  # a full disk
        end_output()
        status = status or 2
        print(f"error: the standard output cannot be written: {describe_os_error(error)}", file=sys.stderr)
    with contextlib.suppress(OSError):
        sys.stderr.flush()
    if any(not thread.daemon for thread in threading.enumerate() if thread is not threading.main_thread()):
        os._exit(status)
    sys.exit(status)


def _prepare_streams() -> None:
    """Makes the standard streams safe to write to.

    Closed ones lead nowhere: a file that takes their number would get what is printed. Characters that the encoding of
    the terminal lacks, and bytes of file names that are no text, are shown as escapes.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            # Takes the lowest free number, which is that of the closed stream.
            setattr(sys, name, pathlib.Path(os.devnull).open("w" if number else "r"))  # noqa: SIM115
        elif number and isinstance(stream := getattr(sys, name), io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def end_output() -> None:
    """Leads the standard output nowhere, so that Python's own flush at exit does not fail again."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _quieten_libraries() -> None:
    """Silences messages of libraries that the user cannot act on."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    absl_logging.set_verbosity(absl_logging.WARNING)
    absl_logging.set_stderrthreshold("warning")
    for name in ("orbax", "jax", "absl"):
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.getLogger("matplotlib").setLevel(logging.ERROR)  # it warns about a home that it cannot write to, and fonts
    warnings.filterwarnings("ignore", message="Sharding info not provided when restoring")
