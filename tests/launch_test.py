"""launch.sh with a Python that only writes down what it is asked to do."""

import os
import pathlib
import shutil
import subprocess
import sys
import textwrap
import tomllib

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = pathlib.Path(__file__).parent.parent

# Stands for every Python: answers questions about itself as told by the environment, makes a .venv that holds itself
# again, and writes down all other calls with their arguments, separated by bars.
FAKE_PYTHON = """\
#!/bin/sh
case "$1 $2" in
  *constraints/*) exec "$REAL_PYTHON" -c "import sys; sys.version_info = (3, ${MINOR:-11}); $2" ;;
  *version_info*) exit "${TOO_OLD:-0}" ;;
  *ensurepip,*) exit "${WITHOUT_VENV:-0}" ;;
esac
line="$(basename -- "$0")${PYTHONHOME:+ at home in $PYTHONHOME}"
for argument in "$@"; do line="$line|$argument"; done
pwd > "$RECORD.folder"
echo "$line" >> "$RECORD"
if [ "$1 $2 $3" = "-m venv --clear" ]; then
  rm -rf -- "$4"
  mkdir -p -- "$4/bin"
  cp -- "$0" "$4/bin/python"
fi
case "$line" in
  *"|-c|"*) file="${line#*|-c|}"; [ -f "${file%%|*}" ] || exit 1 ;;
esac
case "$line" in
  *"${FAILING:-nothing fails}"*) exit 1 ;;
esac
"""


class Machine:
    """A checkout, in a folder with spaces, on a machine that holds little more than the given Pythons."""

    def __init__(self, folder: pathlib.Path) -> None:
        self.root = folder / "a checkout with spaces"
        self.root.mkdir(parents=True)
        for name in ("launch.sh", "pyproject.toml"):
            shutil.copy(ROOT / name, self.root / name)
        shutil.copytree(ROOT / "constraints", self.root / "constraints")
        self.elsewhere = folder / "elsewhere"
        self.elsewhere.mkdir()
        self.programs = folder / "programs"
        self.programs.mkdir()
        for name in ("bash", "sh", "env", "dirname", "basename", "cat", "cksum", "rm", "mkdir", "cp"):
            found = shutil.which(name)
            assert found is not None
            (self.programs / name).symlink_to(found)
        self.record = folder / "record"

    def add_python(self, name: str = "python3", **answers: str) -> None:
        """Puts a Python 3.11 on the PATH; answers: TOO_OLD=1, WITHOUT_VENV=1, MINOR=13."""
        settings = "".join(f"{key}={value}\n" for key, value in answers.items())
        path = self.programs / name
        path.write_text(FAKE_PYTHON.replace("#!/bin/sh\n", f"#!/bin/sh\n{settings}"))
        path.chmod(0o755)

    def launch(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        self.record.unlink(missing_ok=True)
        return subprocess.run(
            ["bash", str(self.root / "launch.sh"), *arguments],
            cwd=self.elsewhere,
            env={"PATH": str(self.programs), "RECORD": str(self.record), "REAL_PYTHON": sys.executable, **environment},
            capture_output=True,
            text=True,
            timeout=60,
        )

    def calls(self) -> list[str]:
        """What the Pythons were called for by the last launch."""
        return self.record.read_text().splitlines() if self.record.exists() else []

    def installations(self) -> list[str]:
        return [call for call in self.calls() if "|install|" in call]


@pytest.fixture
def machine(tmp_path: pathlib.Path) -> Machine:
    found = Machine(tmp_path)
    found.add_python()
    return found


@pytest.mark.parametrize("word", ["help", "--help", "-h"])
def test_help(machine: Machine, word: str) -> None:
    done = machine.launch(word)
    assert done.returncode == 0
    assert done.stdout.startswith("Usage: ./launch.sh COMMAND")
    for command in ("demo", "serve", "test", "install", "multihost", "tpu", "gke", "slurm"):
        assert f"\n  {command} " in done.stdout
    assert done.stderr == ""
    assert machine.calls() == []


@pytest.mark.parametrize("arguments", [["deploy"], ["Test", "tests"], []])
def test_an_unknown_command_is_one_clear_line(machine: Machine, arguments: list[str]) -> None:
    done = machine.launch(*arguments)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    assert "use demo, serve or test" in done.stderr
    assert all(argument in done.stderr for argument in arguments[:1])
    assert machine.calls() == []


def test_demo_makes_installs_and_runs(machine: Machine) -> None:
    done = machine.launch("demo", "--config.seed=1", "--workdir=my runs")
    assert done.returncode == 0, done.stderr
    venv = machine.root / ".venv"
    assert machine.calls() == [
        f"python3|-m|venv|--clear|{venv}",
        "python|-m|pip|--version",
        "python|-m|pip|install|--quiet|--disable-pip-version-check|-c|constraints/python3.11.txt|-e|.",
        "python|-m|bt_jax.main|--config=configs/effnet.py:demo|--workdir=runs/demo|--config.seed=1|--workdir=my runs",
    ]
    assert [line[:4] for line in done.stdout.splitlines()] == ["==> "] * 3


def test_serve_installs_and_runs(machine: Machine) -> None:
    done = machine.launch("serve", "--port=8080")
    assert done.returncode == 0, done.stderr
    assert machine.calls()[-2:] == [
        "python|-m|pip|install|--quiet|--disable-pip-version-check|-c|constraints/python3.11.txt|-e|.",
        "python|-m|bt_jax.serve|--port=8080",
    ]


@pytest.mark.parametrize("arguments", [["demo"], ["serve"], ["test"], ["test", "tests"]])
def test_programs_run_in_the_checkout(machine: Machine, arguments: list[str]) -> None:
    machine.launch(*arguments)
    assert pathlib.Path(f"{machine.record}.folder").read_text(encoding="utf-8") == f"{machine.root}\n"


def test_another_pythons_home_is_left_out(machine: Machine) -> None:
    machine.launch("demo", PYTHONHOME="/elsewhere")
    assert machine.calls() and not any("at home in" in call for call in machine.calls())


PYTEST = "python|-m|pytest|-n|auto|--maxprocesses=4|--dist=worksteal|--durations=20|-m|"


@pytest.mark.parametrize(("arguments", "selection"), [((), "not slow and not real_data"), (("all",), "")])
def test_test_checks_and_runs_the_tests(machine: Machine, arguments: tuple[str, ...], selection: str) -> None:
    done = machine.launch("test", *arguments)
    assert done.returncode == 0, done.stderr
    calls = machine.calls()
    assert (
        calls[2] == "python|-m|pip|install|--quiet|--disable-pip-version-check|-c|constraints/python3.11.txt|-e|.[test]"
    )
    # Types are checked beside the others.
    assert sorted(calls[3:]) == sorted(
        ["python|-m|ruff|check", "python|-m|ruff|format|--check", "python|-m|mypy", f"{PYTEST}{selection}"]
    )
    expected = ["ruff check", "ruff format --check", PYTEST[10:].replace("|", " ") + selection, "mypy"]
    assert done.stdout.splitlines()[2:] == [f"==> {words}" for words in expected]


def test_arguments_of_test_go_to_pytest_alone(machine: Machine) -> None:
    done = machine.launch("test", "tests/a file.py", "-k", "one or two")
    assert done.returncode == 0, done.stderr
    assert machine.calls()[3:] == ["python|-m|pytest|tests/a file.py|-k|one or two"]
    machine.launch("test", "all", "-x")
    assert machine.calls() == ["python|-m|pytest|all|-x"]


@pytest.mark.parametrize("failing", ["ruff|check", "ruff|format|--check", "mypy", "pytest|-n|auto"])
def test_any_failing_check_fails_after_all_have_run(machine: Machine, failing: str) -> None:
    done = machine.launch("test", FAILING=f"-m|{failing}")
    assert done.returncode == 1
    assert len(machine.calls()) == 7
    assert done.stderr.startswith(f"failed: {failing.replace('|', ' ')}") and done.stderr.count("\n") == 1


def test_status_of_the_program_is_passed_on(machine: Machine) -> None:
    assert machine.launch("demo", FAILING="bt_jax.main").returncode == 1
    assert machine.launch("test", "tests", FAILING="-m|pytest").returncode == 1


def test_a_second_start_installs_nothing(machine: Machine) -> None:
    machine.launch("test", "tests")
    done = machine.launch("test", "tests")
    assert machine.calls() == ["python|-m|pytest|tests"]
    assert done.stdout == "==> pytest\n"


def test_the_tests_installation_serves_the_demo_but_not_the_other_way_round(machine: Machine) -> None:
    machine.launch("demo")
    assert len(machine.installations()) == 1
    machine.launch("test", "tests")
    assert len(machine.installations()) == 1
    machine.launch("demo")
    assert machine.installations() == []
    machine.launch("test", "tests")
    assert machine.installations() == []


@pytest.mark.parametrize("extra", ["cuda12", "cuda13", "tpu"])
def test_an_extra_is_installed_once_and_serves_the_demo(machine: Machine, extra: str) -> None:
    machine.launch("install", extra)
    assert machine.installations()[0].endswith(f"|-e|.[{extra}]")
    machine.launch("install", extra)
    assert machine.installations() == []
    machine.launch("demo")
    assert machine.installations() == []
    machine.launch("install", "test")
    assert len(machine.installations()) == 1


def test_processes_on_this_machine_run_in_what_is_installed(machine: Machine) -> None:
    done = machine.launch("multihost", "2", "--config=configs/cnn.py:demo")
    assert done.returncode == 0, done.stderr
    assert len(machine.installations()) == 1
    assert machine.calls()[-1] == "python|-m|bt_jax.launch.multihost|2|--config=configs/cnn.py:demo"


@pytest.mark.parametrize(
    "arguments",
    [
        ["tpu", "run", "a name"],
        ["gke", "print"],
        ["slurm"],
        ["multihost", "2", "--dry-run"],
        ["multihost", "--help"],
    ],
)
def test_what_runs_elsewhere_or_not_at_all_installs_nothing(machine: Machine, arguments: list[str]) -> None:
    done = machine.launch(*arguments)
    assert done.returncode == 0, done.stderr
    assert machine.calls() == ["|".join(["python3", "-m", f"bt_jax.launch.{arguments[0]}", *arguments[1:]])]
    machine.launch("demo")
    machine.launch(*arguments, FAILING="bt_jax.launch")
    assert machine.calls()[-1].startswith("python|-m|bt_jax.launch")


@pytest.mark.parametrize(("minor", "file"), [("11", "11"), ("12", "12"), ("13", "13"), ("14", "13")])
def test_each_python_gets_its_exact_versions(machine: Machine, minor: str, file: str) -> None:
    machine.add_python(MINOR=minor)
    assert machine.launch("demo").returncode == 0
    (call,) = machine.installations()
    assert f"|-c|constraints/python3.{file}.txt|" in call


@pytest.mark.parametrize("minor", ["11", "12", "13"])
def test_exact_versions_lie_in_the_ranges(minor: str) -> None:
    lines = (ROOT / "constraints" / f"python3.{minor}.txt").read_text().splitlines()
    exact = {canonicalize_name(name): version for name, version in (line.split("==") for line in lines)}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for text in project["dependencies"] + project["optional-dependencies"]["test"]:
        needed = Requirement(text)
        if needed.name != "bt-jax":
            assert needed.specifier.contains(exact[canonicalize_name(needed.name)]), text


@pytest.mark.parametrize("name", ["pyproject.toml", "constraints/python3.11.txt"])
def test_a_change_of_what_is_needed_installs_again(machine: Machine, name: str) -> None:
    machine.launch("demo")
    path = machine.root / name
    path.write_text(path.read_text() + "\n# changed\n")
    machine.launch("demo")
    assert len(machine.installations()) == 1
    machine.launch("demo")
    assert machine.installations() == []


def test_a_moved_checkout_installs_again(machine: Machine) -> None:
    machine.launch("demo")
    machine.root = machine.root.rename(machine.root.with_name("moved"))
    assert machine.launch("demo").returncode == 0
    assert len(machine.installations()) == 1


def test_a_failed_installation_is_not_taken_for_done(machine: Machine) -> None:
    machine.launch("demo")
    (machine.root / "constraints" / "python3.11.txt").write_text("changed\n")
    assert machine.launch("demo", FAILING="|install|").returncode == 1
    assert machine.calls()[-1].startswith("python|-m|pip|install|")
    (machine.root / "constraints" / "python3.11.txt").write_text((ROOT / "constraints" / "python3.11.txt").read_text())
    machine.launch("demo")
    assert len(machine.installations()) == 1


def test_a_broken_environment_is_made_again(machine: Machine) -> None:
    machine.launch("demo")
    python = machine.root / ".venv" / "bin" / "python"
    python.unlink()
    python.symlink_to(machine.root / "a Python that was removed")
    done = machine.launch("demo")
    assert done.returncode == 0, done.stderr
    assert machine.calls()[0].startswith("python3|-m|venv|--clear|")
    assert len(machine.installations()) == 1


def test_pip_is_added_where_it_is_missing(machine: Machine) -> None:
    done = machine.launch("demo", FAILING="pip|--version")
    assert done.returncode == 0, done.stderr
    assert machine.calls()[1:3] == ["python|-m|pip|--version", "python|-m|ensurepip"]


def test_a_newer_python_is_taken_where_the_first_is_too_old(machine: Machine) -> None:
    machine.add_python("python3", TOO_OLD="1")
    machine.add_python("python3.12")
    done = machine.launch("demo")
    assert f"making .venv with {machine.programs / 'python3.12'}" in done.stdout
    assert machine.calls()[0].startswith("python3.12|-m|venv|")


def test_a_complete_python_is_taken_where_the_first_lacks_venv(machine: Machine) -> None:
    machine.add_python("python3", WITHOUT_VENV="1")
    machine.add_python("python3.11")
    machine.launch("demo")
    assert machine.calls()[0].startswith("python3.11|-m|venv|")


def test_no_python_is_one_clear_line(machine: Machine) -> None:
    machine.add_python("python3", TOO_OLD="1")
    done = machine.launch("demo")
    assert done.returncode == 2
    assert done.stderr.startswith("error: found no Python 3.11 or newer") and done.stderr.count("\n") == 1
    assert not (machine.root / ".venv").exists()


def test_a_missing_venv_module_is_one_clear_line(machine: Machine) -> None:
    machine.add_python("python3", WITHOUT_VENV="1")
    done = machine.launch("test")
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {machine.programs / 'python3'} lacks") and done.stderr.count("\n") == 1
    assert "python3-venv" in done.stderr


def test_ci_runs_the_tests_with_the_images_beside_the_checkout(tmp_path: pathlib.Path) -> None:
    root = tmp_path / "check out"
    (root / ".ci").mkdir(parents=True)
    shutil.copy(ROOT / ".ci" / "run", root / ".ci" / "run")
    launch = root / "launch.sh"
    launch.write_text(
        textwrap.dedent("""\
        #!/usr/bin/env bash
        echo "$PWD|$*|${BT_DATA-not set}"
    """)
    )
    launch.chmod(0o755)
    environment = {key: value for key, value in os.environ.items() if key != "BT_DATA"}

    def run(**more: str) -> str:
        command = [str(root / ".ci" / "run")]
        done = subprocess.run(
            command, cwd=tmp_path, env=environment | more, capture_output=True, text=True, check=True, timeout=60
        )
        return done.stdout.strip()

    assert run() == f"{root}|test all|not set"
    images = tmp_path / "shared" / "data" / "brain_tumor_mri"
    images.mkdir(parents=True)
    assert run() == f"{root}|test all|{images}"
    assert run(BT_DATA="/elsewhere") == f"{root}|test all|/elsewhere"
