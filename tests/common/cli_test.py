import json
import os
import pathlib
import platform
import shlex
import signal
import subprocess
import sys
import types

import pytest
from absl import flags

from bt_jax.common import cli
from bt_jax.common.errors import UsageError

ROOT = pathlib.Path(cli.__file__).parents[2]


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """A command's module in the place of `__main__`, with flags of its own and of a library."""
    values = flags.FlagValues()
    module = types.ModuleType("__main__", "Does a thing.\n\n    python -m bt_jax.thing --count=3\n")
    monkeypatch.setitem(sys.modules, "__main__", module)
    monkeypatch.setattr(cli.flags, "FLAGS", values)
    monkeypatch.setattr(cli, "_quieten_libraries", lambda: None)
    monkeypatch.setattr(cli, "_exit", sys.exit)  # threads of other tests do not concern the command
    # absl knows the main module by the name of the program.
    flags.DEFINE_integer("count", 1, "How many things.", flag_values=values, lower_bound=0, module_name="thing")
    flags.DEFINE_string("library_setting", "", "Of no interest.", flag_values=values, module_name="some.library")
    return module


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str, main=lambda: 0, **options: bool) -> int:
    """The exit status."""
    monkeypatch.setattr(sys, "argv", ["thing", *arguments])
    with pytest.raises(SystemExit) as caught:
        cli.run(main, **options)
    assert isinstance(caught.value.code, int)
    return caught.value.code


def test_flags_are_parsed_before_main_runs(command, monkeypatch, capsys):
    def main() -> None:
        print(flags.FLAGS.count)

    assert run(monkeypatch, "--count=7", main=main) == 0
    assert capsys.readouterr() == ("7\n", "")


@pytest.mark.parametrize("arguments", [["a", "--count=7", "b"], ["--count", "7", "a", "b"], ["a", "b", "--count=7"]])
def test_arguments_of_a_command_that_takes_some_stand_anywhere(command, monkeypatch, capsys, arguments):
    def main(given: list[str]) -> None:
        print(flags.FLAGS.count, *given)

    assert run(monkeypatch, *arguments, main=main, takes_arguments=True) == 0
    assert capsys.readouterr() == ("7 a b\n", "")


def test_the_home_folder_is_expanded_where_shells_leave_it(command, monkeypatch, capsys):
    monkeypatch.setenv("HOME", "/home/me")

    def main(given: list[str]) -> None:
        print(flags.FLAGS.library_setting, *given)

    arguments = ("--library_setting=~/a.py:demo", "~/scans/*.png", "a~/b", "~nobody/c")
    assert run(monkeypatch, *arguments, main=main, takes_arguments=True) == 0
    assert capsys.readouterr().out == "/home/me/a.py:demo /home/me/scans/*.png a~/b ~nobody/c\n"


@pytest.mark.parametrize("beside", [False, True])
def test_configurations_of_the_package_are_used_where_no_folder_has_their_name(
    command, monkeypatch, capsys, tmp_path, beside
):
    monkeypatch.chdir(tmp_path)
    if beside:
        (tmp_path / "configs").mkdir()

    def main() -> None:
        print(flags.FLAGS.library_setting)

    assert run(monkeypatch, "--library_setting=configs/effnet.py:demo", main=main) == 0
    found = capsys.readouterr().out.removesuffix(":demo\n")
    assert found == ("configs/effnet.py" if beside else str(ROOT / "bt_jax/configs/effnet.py"))
    assert beside or pathlib.Path(found).read_bytes() == (ROOT / "configs/effnet.py").read_bytes()


def test_wrong_flags_among_arguments_are_refused(command, monkeypatch, capsys):
    assert run(monkeypatch, "a", "--nonsense=1", main=pytest.fail, takes_arguments=True) == 2
    assert "Unknown command line flag 'nonsense'" in capsys.readouterr().err


@pytest.mark.parametrize(("result", "status"), [(0, 0), (None, 0), (1, 1), (143, 143)])
def test_what_main_returns_is_the_exit_status(command, monkeypatch, result, status):
    assert run(monkeypatch, main=lambda: result) == status


@pytest.mark.parametrize("flag", ["--help", "-h", "--helpfull"])
@pytest.mark.parametrize("before", [(), ("--count=2",), ("--nonsense", "positional")])
def test_help_prints_the_docstring_and_the_flags_of_the_command_alone(command, monkeypatch, capsys, flag, before):
    assert run(monkeypatch, *before, flag, main=lambda: pytest.fail("must not run")) == 0
    output, errors = capsys.readouterr()
    assert output.startswith("Does a thing.\n\n    python -m bt_jax.thing --count=3\n")
    assert "--count" in output and "How many things." in output
    assert "library" not in output and errors == ""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--cuont=1"], "Unknown command line flag 'cuont'. Did you mean: count ?"),
        (["--nonsense"], "Unknown command line flag 'nonsense'"),
        (["--count=many"], "flag --count=many: invalid literal for int() with base 10: 'many'"),
        (["--count=-1"], "flag --count=-1: -1 is not a non-negative integer"),
        (["--count"], "Missing value for flag --count"),
        (["picture.jpg"], "unexpected argument 'picture.jpg': flags are written as --name=value (see --help)"),
        (["--count=1", "a", "b"], "unexpected argument 'a': flags are written as --name=value (see --help)"),
    ],
)
def test_wrong_flags_are_one_line_and_status_2(command, monkeypatch, capsys, arguments, message):
    assert run(monkeypatch, *arguments, main=lambda: pytest.fail("must not run")) == 2
    output, errors = capsys.readouterr()
    assert output == ""
    assert errors == f"error: {message}\n"


def test_a_users_mistake_in_main_is_one_line_and_status_2(command, monkeypatch, capsys):
    def main() -> int:
        raise UsageError("config.data.dir is 'x', which is not there")

    assert run(monkeypatch, main=main) == 2
    assert capsys.readouterr() == ("", "error: config.data.dir is 'x', which is not there\n")


def test_ctrl_c(command, monkeypatch, capsys):
    def main() -> int:
        raise KeyboardInterrupt

    assert run(monkeypatch, main=main) == 130
    assert capsys.readouterr().err == "error: interrupted\n"


def test_an_error_of_the_program_keeps_its_traceback(command, monkeypatch):
    def main() -> int:
        raise ZeroDivisionError

    monkeypatch.setattr(sys, "argv", ["thing"])
    with pytest.raises(ZeroDivisionError):
        cli.run(main)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("plain", "plain"),
        (" two\n  lines \n", "two lines"),
        ("wrapped:\nTraceback (most recent call last):\n  File x\nValueError: the reason: this\n", "the reason: this"),
        ("", ""),
    ],
)
def test_one_line(text, line):
    assert cli.format_error(ValueError(text)) == line


COMMANDS = {
    "help": ["--help"],
    "unknown flag": ["--nonsense=1"],
    "positional": ["--config=configs/effnet.py:demo", "extra"],
    "unknown field": ["--config=configs/effnet.py:demo", "--config.data.fald=1"],
    "wrong type": ["--config=configs/effnet.py:demo", "--config.data.folds=x"],
    "no file": ["--config=nowhere.py"],
    "nothing": [],
}


@pytest.fixture(scope="module")
def outcomes() -> dict[str, tuple[str, str, int]]:
    """Output, errors and status of the training command, all started at once."""
    started = {
        name: subprocess.Popen(
            [sys.executable, "-m", "bt_jax.main", *arguments],
            cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for name, arguments in COMMANDS.items()
    }  # fmt: skip
    return {name: (*process.communicate(timeout=120), process.returncode) for name, process in started.items()}


def test_help_of_the_training_command(outcomes):
    output, errors, status = outcomes["help"]
    assert (status, errors) == (0, "")
    assert output.startswith("Trains a model on a folder of images") and "--config=configs/effnet.py:demo" in output
    flags_part = output.partition("\nFlags:")[2]
    assert [line.split(":")[0].strip() for line in flags_part.splitlines() if line.startswith("  --")] == [
        "--config",
        "--coordinator",
        "--heartbeat",
        "--process",
        "--processes",
        "--summary",
        "--workdir",
    ]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("unknown flag", "Unknown command line flag 'nonsense'"),
        ("positional", "unexpected argument 'extra': flags are written as --name=value (see --help)"),
        ("unknown field", 'Did you mean "fold" instead of "fald"?'),
        ("wrong type", "flag --config.data.folds=x: invalid literal for int() with base 10: 'x'"),
        ("no file", "--config: nowhere.py cannot be read"),
        ("nothing", "--config is missing: name a configuration, such as --config=configs/effnet.py:demo"),
    ],
)
def test_mistakes_on_the_training_command_line(outcomes, name, message):
    assert outcomes[name] == ("", f"error: {message}\n", 2)


@pytest.mark.parametrize("ending", ["return 7", "raise UsageError('too large')", "raise KeyboardInterrupt"])
def test_a_command_does_not_wait_for_a_compiler(ending):
    """Nor is it aborted by one that comes back to an interpreter that is gone."""
    script = f"""
import time
from bt_jax.common import cli
from bt_jax.common.errors import UsageError
from bt_jax.training.precompile import Programs
from bt_jax.training.stages import Stage

class SlowStep:
    def describe_batch(self, stage):
        return {{}}

    def compile(self, stage, state, batch):
        time.sleep(600)

def main():
    print("begun")
    stage = Stage(number=1, first_segment=0, program_segment=0, learning_rate=1.0, steps=1, first_step=0)
    Programs(SlowStep(), SlowStep(), None).start_ahead(stage)
    {ending}

cli.run(main)
"""
    ended = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    expected = {"return 7": (7, ""), "raise KeyboardInterrupt": (130, "error: interrupted\n")}
    assert (ended.returncode, ended.stderr) == expected.get(ending, (2, "error: too large\n"))
    assert ended.stdout == "begun\n"


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries are left as they are")
@pytest.mark.parametrize(("plugin", "platforms", "kept"), [(False, "", True), (True, "", False), (True, "cpu", True)])
def test_freed_memory_comes_back_without_the_kernel(tmp_path, plugin, platforms, kept):
    """A fresh process, because the setting lasts: 1 GiB from another thread, 128 MiB at a time, touches no new page.

    Where JAX may compute on a GPU, the setting would only make the compiler's threads wait for each other.
    """
    if plugin:
        (tmp_path / "jax_plugins").mkdir()
    script = """
import resource, threading
from bt_jax.common import cli
cli.save_memory()
faults = []
def work():
    for _ in range(9):
        bytearray(b"1") * 2**27
        faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)
thread = threading.Thread(target=work)
thread.start()
thread.join()
print(faults[-1] - faults[0])
"""
    environment = os.environ | {"PYTHONPATH": str(tmp_path), "JAX_PLATFORMS": platforms}
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    assert (int(done.stdout) < 100) == kept  # of 262,144 pages


def test_a_program_on_a_cpu_ends_before_the_next_may_start():
    """A program that waits in JAX's queue holds its memory already. How many wait depends on the machine's load."""
    script = """
import sys
import jax, jax.numpy as jnp
from bt_jax.common import cli
cli.save_memory()
if sys.argv[1] == "queued":
    jax.config.update("jax_cpu_enable_async_dispatch", True)
program = jax.jit(lambda x: jax.lax.fori_loop(0, 2000, lambda i, y: y * 0.5 + i, jnp.full(2**18, x)).sum())
program(1.0).block_until_ready()
outputs = [program(float(i)) for i in range(6)]
print([output.is_ready() for output in outputs])
jax.block_until_ready(outputs)
"""
    ended = {}
    for how in ("one by one", "queued"):
        command = [sys.executable, "-c", script, how]
        environment = os.environ | {"JAX_PLATFORMS": "cpu"}
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
        ended[how] = json.loads(done.stdout.lower())
    assert ended["one by one"] == 6 * [True]
    assert not ended["queued"][-1]


SCRIPT = """
import sys
from bt_jax.common import cli

def main():
    {}

cli.run(main)
"""


def run_script(line: str, shell: str = "{}", **environment: str) -> subprocess.CompletedProcess[bytes]:
    """Runs a command whose `main` is one line, in a shell; `{}` in the shell's line is the command."""
    command = f"{shlex.quote(sys.executable)} -c {shlex.quote(SCRIPT.format(line))}"
    return subprocess.run(
        ["bash", "-c", shell.format(command)],
        cwd=ROOT, env={**os.environ, **environment}, capture_output=True, timeout=60, check=False,
    )  # fmt: skip


def test_closed_streams_lead_nowhere(tmp_path):
    """Without a number of their own, what is printed would go into the next file that the command opens."""
    path = tmp_path / "file"
    line = f"with open({str(path)!r}, 'w') as file: print('printed', flush=True); file.write('written')"
    ended = run_script(line, "{} <&- >&- 2>&-")
    assert ended.returncode == 0
    assert path.read_text() == "written"


def test_a_full_disk_behind_the_standard_output_is_one_line():
    ended = run_script("print('printed')", "{} > /dev/full", PYTHONUNBUFFERED="")
    advice = "no space left on device: free space on its disk, or choose another place"
    assert (ended.returncode, ended.stderr.decode()) == (2, f"error: the standard output cannot be written: {advice}\n")
    ended = run_script("print('printed', flush=True)", "{} > /dev/full")
    assert (ended.returncode, ended.stderr.decode()) == (2, f"error: {advice}\n")


@pytest.mark.parametrize(
    ("line", "status"), [("print('printed')", 0), ("print('printed', flush=True)", 128 + signal.SIGPIPE)]
)
def test_a_reader_that_has_enough_is_no_error_if_the_work_is_done(line, status):
    ended = run_script(
        f"import time; time.sleep(0.5); {line}", "{} | true; exit ${{PIPESTATUS[0]}}", PYTHONUNBUFFERED=""
    )
    assert (ended.returncode, ended.stderr) == (status, b"")


@pytest.mark.parametrize("environment", [{"PYTHONIOENCODING": "ascii"}, {"LC_ALL": "C", "PYTHONUTF8": "0"}])
def test_a_terminal_without_the_characters_has_escapes(environment):
    ended = run_script(r"print('Gr\u00f6\u00dfe \u2192'); print('\u2192', file=sys.stderr)", **environment)
    assert (ended.returncode, ended.stderr) == (0, b"\\u2192\n")
    assert ended.stdout == b"Gr\\xf6\\xdfe \\u2192\n"


def test_names_that_are_no_text_are_shown_with_escapes():
    ended = run_script(r"print('a\udcff.png')", PYTHONIOENCODING="utf-8")
    assert (ended.returncode, ended.stderr, ended.stdout) == (0, b"", b"a\\udcff.png\n")
