"""The launchers of an installed package: without a clone, they run what needs none, in the current folder."""

import importlib
import pathlib
import sys

import pytest

from bt_jax.common.errors import UsageError
from bt_jax.launch import commands, gke, multihost, slurm, tpu
from tests.launch.clouds import Cloud

WHERE = ["--zone=us-west4-a"]
FLAGS = ["--config=configs/effnet.py", "--workdir=gs://bucket/run"]
POD = ["mine", "--image=IMAGE", "--type=v5e", "--topology=4x4", *FLAGS]


@pytest.fixture
def cloud(tmp_path: pathlib.Path, site_packages: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> Cloud:
    """The stand-ins, first on the PATH."""
    found = Cloud(tmp_path / "cloud")
    monkeypatch.setenv("PATH", f"{found.programs}:/usr/bin:/bin")
    return found


@pytest.mark.parametrize("dry_run", [[], ["--dry-run"]])
@pytest.mark.parametrize(
    ("launcher", "arguments", "what"),
    [
        (tpu, ["run", "mine", *WHERE, "--type=v5litepod-16", *FLAGS], "tpu run"),
        (slurm, FLAGS, "slurm"),
        (gke, ["print", *POD, "--build"], "--build"),
        (gke, ["apply", *POD, "--build"], "--build"),
    ],
)
def test_what_needs_a_clone_is_refused_in_one_sentence(cloud, site_packages, capfd, launcher, arguments, what, dry_run):
    with pytest.raises(UsageError) as refused:
        launcher.main([*arguments, *dry_run])
    assert str(refused.value) == (
        f"{what} needs a clone of the repository, but bt_jax is installed in {site_packages}: run it in a clone"
    )
    assert cloud.calls() == []
    assert capfd.readouterr().out == ""


def test_a_workdir_is_fetched_to_the_current_folder(cloud: Cloud, site_packages: pathlib.Path) -> None:
    assert tpu.main(["fetch", "mine", *WHERE, "--workdir=gs://bucket/run"]) == 0
    assert cloud.calls() == ["gcloud storage rsync --recursive gs://bucket/run runs/run"]
    assert pathlib.Path("runs/run").is_dir()
    assert [path.name for path in site_packages.iterdir()] == ["bt_jax"]


@pytest.mark.usefixtures("site_packages")
def test_what_is_built_elsewhere_is_applied(cloud: Cloud) -> None:
    assert gke.main(["apply", *POD]) == 0
    assert gke.main(["delete", "mine"]) == 0
    assert cloud.calls() == ["kubectl apply -f -", "kubectl delete jobset mine --namespace=default"]


@pytest.mark.usefixtures("site_packages")
def test_processes_of_this_machine_run_in_the_current_folder(tmp_path: pathlib.Path) -> None:
    program = "import os, sys; open(sys.argv[1], 'w').write(os.getcwd())"
    lines = [[sys.executable, "-c", program, f"place_{number}"] for number in range(2)]
    assert multihost.supervise(lines, grace=5, environment={}) == 0
    here = tmp_path / "here"
    assert {(here / f"place_{number}").read_text() for number in range(2)} == {str(here)}


@pytest.mark.usefixtures("site_packages")
@pytest.mark.parametrize("name", ["gke", "multihost", "slurm", "tpu"])
def test_help_names_the_module(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        importlib.import_module(f"bt_jax.launch.{name}").main(["--help"])
    assert capsys.readouterr().out.startswith(f"usage: python -m bt_jax.launch.{name} ")


def test_a_clone_is_one() -> None:
    assert commands.is_checkout()
    commands.require_checkout("anything")
