"""The launcher for SLURM against a stand-in for sbatch that knows its directives."""

import pathlib
import shlex
import subprocess

import pytest

from bt_jax.common.errors import UsageError
from bt_jax.launch import slurm
from tests.launch.clouds import Cloud

FLAGS = ["--config=configs/effnet.py", "--workdir=runs/a name"]


@pytest.fixture(autouse=True)
def _installs(checkout: pathlib.Path) -> None:
    launch = checkout / "launch.sh"
    launch.write_text('#!/bin/sh\necho "$@" > installed\n')
    launch.chmod(0o755)


def directives(script: str) -> dict[str, str]:
    options = [shlex.split(line)[1] for line in script.splitlines() if line.startswith("#SBATCH ")]
    return {name: value for name, _, value in (option.partition("=") for option in options)}


def test_a_job_on_gpus(cloud: Cloud, checkout: pathlib.Path) -> None:
    more = ["--sbatch=--partition=gpu", "--sbatch=--account=us"]
    assert slurm.main(["--nodes=2", "--gpus-per-node=4", "--time=1-12:00:00", *more, *FLAGS]) == 0
    (script,) = cloud.calls(stdin=True)
    assert directives(script) == {
        "--job-name": "bt_jax",
        "--nodes": "2",
        "--ntasks-per-node": "4",
        "--gpus-per-node": "4",
        "--time": "1-12:00:00",
        "--chdir": str(checkout),  # with a space in it
        "--output": "slurm-%j.log",
        "--open-mode": "append",
        "--requeue": "",
        "--signal": "TERM@120",
        "--partition": "gpu",
        "--account": "us",
    }
    assert (checkout / "installed").read_text() == "install cuda12\n"


def test_the_newer_cuda(cloud: Cloud, checkout: pathlib.Path) -> None:
    assert slurm.main(["--gpus-per-node=1", "--cuda=13", *FLAGS]) == 0
    assert (checkout / "installed").read_text() == "install cuda13\n"


def test_a_job_on_cpus(cloud: Cloud, checkout: pathlib.Path) -> None:
    assert slurm.main(["--nodes=3", "--grace=60", *FLAGS]) == 0
    found = directives(cloud.calls(stdin=True)[0])
    assert found["--ntasks-per-node"] == "1" and "--gpus-per-node" not in found
    assert found["--signal"] == "TERM@60"
    assert (checkout / "installed").read_text() == "install\n"


@pytest.mark.parametrize(("status", "queued_again"), [(0, False), (1, False), (143, True)])
def test_the_script_runs_the_program_and_queues_up_after_a_save(
    cloud: Cloud, checkout: pathlib.Path, status: int, queued_again: bool
) -> None:
    slurm.main(FLAGS)
    srun = cloud.programs / "srun"
    srun.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" > ran\nexit {status}\n')
    srun.chmod(0o755)
    done = subprocess.run(
        ["bash", "-c", cloud.calls(stdin=True)[0]],
        cwd=checkout,
        env={"PATH": f"{cloud.programs}:/usr/bin:/bin", "SLURM_JOB_ID": "12"},
        check=False,
    )
    assert done.returncode == status
    assert (checkout / "ran").read_text().splitlines() == [
        "--kill-on-bad-exit=1",
        "--label",
        ".venv/bin/python",
        "-m",
        "bt_jax.main",
        *FLAGS,
    ]
    assert cloud.calls()[1:] == (["scontrol requeue 12"] if queued_again else [])


def test_a_dry_run_prints_and_calls_nothing(
    cloud: Cloud, checkout: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert slurm.main([*FLAGS, "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("+ ./launch.sh install\n#!/usr/bin/env bash\n") and out.endswith("+ sbatch\n")
    assert cloud.calls() == [] and not (checkout / "installed").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--workdir=runs/a"], "--config is missing"),
        (["--config=c"], "--workdir is missing"),
        ([*FLAGS, "--nodes=0"], "--nodes is 0: use 1 or more"),
        ([*FLAGS, "--gpus-per-node=-1"], "--gpus-per-node is -1: use 0 or more"),
        ([*FLAGS, "--sbatch=partition"], "write it as --sbatch=--OPTION=VALUE"),
        ([*FLAGS, "--sbatch=--comment=a\n#SBATCH --exclusive"], "write it as --sbatch=--OPTION=VALUE"),
    ],
)
def test_a_mistake_is_one_clear_line(cloud: Cloud, arguments: list[str], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        slurm.main(arguments)
    assert message in str(caught.value)
    assert cloud.calls() == []


def test_a_directive_that_sbatch_does_not_know_fails(cloud: Cloud) -> None:
    with pytest.raises(UsageError, match=r"sbatch .* failed with status 2"):
        slurm.main([*FLAGS, "--sbatch=--nonsense=1"])
