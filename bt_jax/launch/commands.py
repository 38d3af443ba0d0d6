"""What the launchers share: options, commands that are printed as they run, one clear line for what is wrong.

The launchers need nothing but Python's own library, so that they start from a fresh checkout.
"""

import argparse
import pathlib
import shlex
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

from bt_jax.common.errors import UsageError

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent  # of the checkout
# After these a launcher's options are flags of bt_jax.main.
_OF_MAIN = ("--config", "--workdir")


class Options(argparse.ArgumentParser):
    """Options of a launcher; a mistake in them is a `UsageError`."""

    def __init__(self, description: str, *, command: str):
        super().__init__(
            prog=f"./launch.sh {command}",
            description=description,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        self.add_argument("--dry-run", action="store_true", help="print every command, run none")

    def error(self, message: str) -> NoReturn:
        """As `argparse` wants it."""
        raise UsageError(f"{message} (see {self.prog} --help)")


def split_flags(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """A launcher's own arguments, and the flags of `bt_jax.main`.

    The latter are `--config...` and `--workdir=...` anywhere, and all that follows a bare `--`.

    Raises:
      UsageError: one of them is written as two words, whose second would be lost.
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
    """The last value of a flag such as `--workdir=VALUE`."""
    values = [flag.partition("=")[2] for flag in flags if flag.split("=")[0] == name]
    return values[-1] if values else None


def require_config(flags: Sequence[str]) -> None:
    """Refuses to start anything for a run that cannot start.

    Raises:
      UsageError: there is no `--config=FILE`.
    """
    if not get_value(flags, "--config"):
        raise UsageError("--config is missing: name a configuration, such as --config=configs/effnet.py")


class Shell:
    """Runs commands and prints them; a dry run only prints."""

    def __init__(self, *, dry_run: bool):
        self.dry_run = dry_run

    def run(self, *command: str, stdin: str | None = None) -> None:
        """Runs a command to its end.

        Raises:
          UsageError: it is not installed, or it failed; what it said stands above.
        """
        if status := self.status(*command, stdin=stdin):
            raise UsageError(f"{shlex.join(command[:4])} ... failed with status {status}: see above")

    def status(self, *command: str, stdin: str | None = None) -> int:
        """Runs a command and gives its exit status, that of a dry run being 0."""
        self.say(f"+ {shlex.join(command)}")
        if self.dry_run:
            return 0
        return _run(command, stdin=stdin, capture=False).returncode

    def ask(self, *command: str) -> tuple[int, str, str]:
        """Exit status, output and errors of a command that only looks; a dry run finds that there is nothing."""
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
        return subprocess.run(command, cwd=ROOT, input=stdin, capture_output=capture, text=True, check=False)
    except FileNotFoundError:
        raise UsageError(f"{command[0]} is not installed, or not on the PATH: install it first") from None


def run_launcher(main: Callable[[Sequence[str]], int]) -> NoReturn:
    """Exits with what `main` returns for the command line, or with 2 after one line for a mistake."""
    try:
        status = main(sys.argv[1:])
    except (UsageError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        status = 2
    except KeyboardInterrupt:
        status = 130
    sys.exit(status)
