"""What the launchers share: the split of their arguments, and commands that are printed as they run."""

import sys

import pytest

from bt_jax.common.errors import UsageError
from bt_jax.launch import commands


def test_flags_of_main_are_told_from_a_launchers_own() -> None:
    arguments = ["2", "--config=a.py:demo", "--grace=3", "--config.seed=1", "--workdir=runs/x", "--", "--process=0"]
    assert commands.split_flags(arguments) == (
        ["2", "--grace=3"],
        ["--config=a.py:demo", "--config.seed=1", "--workdir=runs/x", "--process=0"],
    )


@pytest.mark.parametrize("name", ["--config", "--workdir", "--config.seed"])
def test_a_flag_without_a_value_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match=f"{name} has no value: write {name}=VALUE"):
        commands.split_flags([name, "a"])


def test_the_last_value_of_a_flag_counts() -> None:
    flags = ["--workdir=a=b", "--config.workdir=c", "--workdir=d=e"]
    assert commands.get_value(flags, "--workdir") == "d=e"
    assert commands.get_value(flags[:1], "--workdir") == "a=b"
    assert commands.get_value(flags, "--config") is None


@pytest.mark.parametrize("flags", [[], ["--workdir=a"], ["--config="]])
def test_a_run_needs_a_configuration(flags: list[str]) -> None:
    with pytest.raises(UsageError, match="--config is missing"):
        commands.require_config(flags)
    commands.require_config([*flags, "--config=a.py"])


def test_a_dry_run_prints_and_starts_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    shell = commands.Shell(dry_run=True)
    shell.run("no-such-command", "two words")
    assert shell.status("no-such-command") == 0
    assert shell.ask("no-such-command", "-v") == (1, "", "NOT_FOUND")
    assert capfd.readouterr().out.splitlines() == [
        "+ no-such-command 'two words'",
        "+ no-such-command",
        "+ no-such-command -v",
    ]


def test_commands_run_in_the_checkout_and_their_status_is_given(capfd: pytest.CaptureFixture[str]) -> None:
    shell = commands.Shell(dry_run=False)
    assert shell.status(sys.executable, "-c", "import os; print(os.getcwd()); raise SystemExit(3)") == 3
    assert capfd.readouterr().out.splitlines()[-1] == str(commands.ROOT)
    assert shell.ask(sys.executable, "-c", "print(' out '); raise SystemExit(4)") == (4, "out", "")
    shell.run(sys.executable, "-c", "import sys; print('given', sys.stdin.read())", stdin="text")
    assert capfd.readouterr().out.splitlines()[-1] == "given text"


def test_a_failure_and_a_missing_program_are_usage_errors() -> None:
    shell = commands.Shell(dry_run=False)
    with pytest.raises(UsageError, match=r"failed with status 5: see above"):
        shell.run(sys.executable, "-c", "raise SystemExit(5)")
    with pytest.raises(UsageError, match="no-such-command is not installed, or not on the PATH"):
        shell.run("no-such-command")


@pytest.mark.parametrize(
    ("raised", "status", "said"),
    [
        (None, 7, ""),
        (UsageError("wrong"), 2, "error: wrong\n"),
        (OSError("full"), 2, "error: full\n"),
        (KeyboardInterrupt(), 130, ""),
    ],
)
def test_a_launcher_exits_with_its_status_and_one_line(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    raised: BaseException | None,
    status: int,
    said: str,
) -> None:
    monkeypatch.setattr(sys, "argv", ["launcher", "a", "--b"])
    seen = []

    def main(arguments: object) -> int:
        seen.append(arguments)
        if raised is not None:
            raise raised
        return 7

    with pytest.raises(SystemExit) as ended:
        commands.run_launcher(main)
    assert ended.value.code == status
    assert seen == [["a", "--b"]]
    assert capsys.readouterr().err == said


def test_a_wrong_option_is_a_usage_error_that_names_the_help() -> None:
    parser = commands.Options("Does it.", command="thing")
    assert parser.parse_args(["--dry-run"]).dry_run
    with pytest.raises(UsageError, match=r"unrecognized arguments: --dry \(see \./launch\.sh thing --help\)"):
        parser.parse_args(["--dry"])
