"""What the launchers share: options, commands that are printed as they run, and one clear line for a mistake.

The launchers need only Python's standard library, so they start from a fresh checkout. From an installed package, only
what needs no checkout runs, in the current folder.
"""

import argparse
import pathlib
import shlex
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

from bt_jax.common.errors import UsageError

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent  # of the checkout, or the folder of installed packages
# Options with these names are flags of bt_jax.main.
_OF_MAIN = ("--config", "--workdir")


class Options(argparse.ArgumentParser):
    """The options of a launcher. A mistake in them raises `UsageError`."""

    def __init__(self, description: str, *, command: str):
        super().__init__(
            prog=name_program(command),
            description=description,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        self.add_argument("--dry-run", action="store_true", help="print every command, run none")

    def error(self, message: str) -> NoReturn:
        """Raises the error; `argparse` calls this method."""
        raise UsageError(f"{message} (see {self.prog} --help)")


def split_flags(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Splits arguments into those of a launcher and the flags of `bt_jax.main`.

    The latter are `--config...` and `--workdir=...` anywhere, and all arguments after a bare `--`.

    Raises:
      UsageError: a flag of `bt_jax.main` has no `=VALUE`.
    """
    end = list(arguments).index("--") if "--" in arguments else len(arguments)
    own: list[str] = []
    flags: list[str] = []
    for argument in arguments[:end]:
        name = argument.split("=")[0].split(".")[0]
        if name in _OF_MAIN and "=" not in argument:
            raise UsageError(f"{argument} has no value: write {argument}=VALUE")
        (flags if name in _OF_MAIN else own).append(argument)
    return own, [*flags, *arguments[end + 1 :]]


def get_value(flags: Sequence[str], name: str) -> str | None:
    """Returns the last value of a flag such as `--workdir=VALUE`."""
    values = [flag.partition("=")[2] for flag in flags if flag.split("=")[0] == name]
    return values[-1] if values else None


def require_config(flags: Sequence[str]) -> None:
    """Checks that there is a configuration, before anything is started.

    Raises:
      UsageError: `--config=FILE` is missing.
    """
    if not get_value(flags, "--config"):
        raise UsageError("--config is missing: name a configuration, such as --config=configs/effnet.py")


def is_checkout() -> bool:
    """Returns whether this package lies in a checkout, and not in a folder of installed packages."""
    return (ROOT / "launch.sh").is_file()


def name_program(command: str) -> str:
    """Returns how a launcher is called."""
    return f"./launch.sh {command}" if is_checkout() else f"python -m bt_jax.launch.{command}"


def require_checkout(what: str) -> None:
    """Checks that there is a checkout to build, copy or share.

    Args:
      what: needs it; the beginning of the error's sentence.

    Raises:
      UsageError: this package is installed.
    """
    if not is_checkout():
        raise UsageError(
            f"{what} needs a clone of the repository, but bt_jax is installed in {ROOT}: run it in a clone"
        )


def get_folder() -> pathlib.Path:
    """Returns the folder in which commands run: the root of the checkout; for an installed package, the current one."""
    return ROOT if is_checkout() else pathlib.Path.cwd()


class Shell:
    """A runner that prints every command before it runs it; a dry run only prints."""

    def __init__(self, *, dry_run: bool):
        self.dry_run = dry_run

    def run(self, *command: str, stdin: str | None = None) -> None:
        """Runs a command and waits for it.

        Raises:
          UsageError: the command is not installed, or it failed; its own output is above.
        """
        if status := self.status(*command, stdin=stdin):
            raise UsageError(f"{shlex.join(command[:4])} ... failed with status {status}: see above")

    def status(self, *command: str, stdin: str | None = None) -> int:
        """Runs a command and returns its exit status; 0 in a dry run."""
        self.say(f"+ {shlex.join(command)}")
        if self.dry_run:
            return 0
        return _run(command, stdin=stdin, capture=False).returncode

    def ask(self, *command: str) -> tuple[int, str, str]:
        """Returns exit status, output and errors of a command that changes nothing; a dry run finds nothing."""
        if self.dry_run:
            self.say(f"+ {shlex.join(command)}")
            return 1, "", "NOT_FOUND"
        done = _run(command, stdin=None, capture=True)
        return done.returncode, done.stdout.strip(), done.stderr.strip()

    @staticmethod
    def say(line: str) -> None:
        """Prints a line at once."""
        print(line, flush=True)


def _run(command: Sequence[str], *, stdin: str | None, capture: bool) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            command, cwd=get_folder(), input=stdin, capture_output=capture, encoding="utf-8", check=False
        )
    except FileNotFoundError:
        raise UsageError(f"{command[0]} is not installed, or not on the PATH: install it first") from None


def run_launcher(main: Callable[[Sequence[str]], int]) -> NoReturn:
    """Exits with the return value of `main` for the command line, or with 2 after one line for a mistake."""
    try:
        status = main(sys.argv[1:])
    except (UsageError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        status = 2
    except KeyboardInterrupt:
        status = 130
    sys.exit(status)
