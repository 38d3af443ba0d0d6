"""The launcher for Cloud TPUs against a stand-in for gcloud that knows its commands and options."""

import pathlib
import shutil
import subprocess

import pytest

from bt_jax.common.errors import UsageError
from bt_jax.launch import commands, tpu
from tests.launch.clouds import Cloud

ROOT = pathlib.Path(__file__).parent.parent.parent
TPU = "gcloud compute tpus"
NOT_FOUND = "ERROR: (gcloud.compute.tpus.tpu-vm.describe) NOT_FOUND: Resource not found"
WHERE = ["--zone=us-west4-a"]
FLAGS = ["--config=configs/effnet.py", "--workdir=gs://bucket/run"]
RUN = ["run", "mine", *WHERE, "--type=v5litepod-16", *FLAGS]


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tpu, "_POLL_SECONDS", 0.0)


def not_there(cloud: Cloud, *, times: int = 1) -> None:
    cloud.answer(f"{TPU} tpu-vm describe", status=1, complains=NOT_FOUND, times=times)


def actions(cloud: Cloud) -> list[str]:
    """The calls without those that only look."""
    return [call for call in cloud.calls() if " describe " not in call]


def test_a_run_from_nothing_to_the_fetched_workdir(cloud: Cloud, checkout: pathlib.Path) -> None:
    not_there(cloud, times=2)
    cloud.answer(f"{TPU} queued-resources describe", "WAITING_FOR_RESOURCES")
    cloud.answer(f"{TPU} tpu-vm describe", "CREATING")
    cloud.answer(f"{TPU} queued-resources describe", "PROVISIONING")
    cloud.answer(f"{TPU} tpu-vm describe", "READY", times=9)
    assert tpu.main([*RUN, "--config.seed=1"]) == 0
    create, scp, install, start, follow, fetch = actions(cloud)
    assert create == (
        f"{TPU} queued-resources create mine --zone=us-west4-a --node-id=mine --accelerator-type=v5litepod-16 "
        "--runtime-version=v2-alpha-tpuv5-lite --async"
    )
    assert scp.startswith(f"{TPU} tpu-vm scp /") and scp.endswith("mine:bt_jax.tar.gz --zone=us-west4-a --worker=all")
    assert "--worker=all" in install and install.endswith("bt_jax/launch/worker.sh install")
    assert "--worker=all" in start and start.endswith(f"worker.sh start {' '.join(FLAGS)} --config.seed=1")
    assert "--worker=0" in follow and follow.endswith("worker.sh follow")
    assert fetch == "gcloud storage rsync --recursive gs://bucket/run runs/run"
    assert (checkout / "runs" / "run").is_dir()


def test_a_slice_that_is_there_is_used_again(cloud: Cloud) -> None:
    cloud.answer(f"{TPU} tpu-vm describe", "READY", times=9)
    assert tpu.main(RUN) == 0
    assert not any("create" in call or "delete" in call for call in cloud.calls())


def test_without_the_queue_and_with_a_project(cloud: Cloud) -> None:
    not_there(cloud)
    cloud.answer(f"{TPU} tpu-vm describe", "READY", times=9)
    assert tpu.main([*RUN, "--direct", "--spot", "--project=ours", "--delete"]) == 0
    assert actions(cloud)[0] == (
        f"{TPU} tpu-vm create mine --zone=us-west4-a --project=ours --accelerator-type=v5litepod-16 "
        "--version=v2-alpha-tpuv5-lite --spot"
    )
    assert actions(cloud)[-1] == f"{TPU} tpu-vm delete mine --zone=us-west4-a --project=ours --quiet"


def test_a_spot_slice_that_is_taken_away_is_made_anew(cloud: Cloud) -> None:
    cloud.answer(f"{TPU} tpu-vm describe", "READY", times=2)  # as the run begins
    cloud.answer(f"{TPU} tpu-vm ssh", containing="follow", status=143)
    cloud.answer(f"{TPU} tpu-vm describe", "PREEMPTED", times=2)  # is it gone; can it be used
    cloud.answer(f"{TPU} queued-resources describe", "SUSPENDED")
    not_there(cloud)
    cloud.answer(f"{TPU} queued-resources describe", "ACTIVE")
    cloud.answer(f"{TPU} tpu-vm describe", "READY", times=9)
    assert tpu.main([*RUN, "--spot"]) == 0
    words = [call.split() for call in actions(cloud)]
    kinds = [" ".join(call[3:5]) if call[1] == "compute" else "fetch" for call in words]
    start = ["tpu-vm scp", "tpu-vm ssh", "tpu-vm ssh", "tpu-vm ssh"]
    assert kinds == [*start, "queued-resources delete", "queued-resources create", *start, "fetch"]
    starts = [call for call in cloud.calls() if "worker.sh start" in call]
    assert len(starts) == 2 and starts[0] == starts[1]
    assert "--force" in words[4] and "--spot" in words[5]


def test_a_spot_slice_is_made_anew_so_often_only(cloud: Cloud) -> None:
    cloud.answer(f"{TPU} tpu-vm ssh", containing="follow", status=255, times=9)
    for _ in range(2):
        cloud.answer(f"{TPU} tpu-vm describe", "READY")
        cloud.answer(f"{TPU} tpu-vm describe", "PREEMPTED", times=2)
        cloud.answer(f"{TPU} tpu-vm describe", "PREEMPTED")
        cloud.answer(f"{TPU} queued-resources describe", "SUSPENDED")
    with pytest.raises(UsageError, match="preempted 1 times: run the same command"):
        tpu.main([*RUN, "--spot", "--restarts=0"])


def test_a_run_that_fails_is_no_reason_to_start_again(cloud: Cloud) -> None:
    cloud.answer(f"{TPU} tpu-vm describe", "READY", times=20)
    cloud.answer(f"{TPU} tpu-vm ssh", containing="follow", status=2)
    assert tpu.main([*RUN, "--spot"]) == 2
    assert actions(cloud)[-1].endswith("worker.sh follow")  # nothing fetched, nothing deleted


def test_a_connection_that_breaks_is_made_again(cloud: Cloud) -> None:
    cloud.answer(f"{TPU} tpu-vm describe", "READY", times=9)
    cloud.answer(f"{TPU} tpu-vm ssh", containing="follow", status=255, times=2)
    cloud.answer(f"{TPU} tpu-vm ssh", containing="follow", status=3)
    assert tpu.main(["follow", "mine", *WHERE]) == 3
    assert len(actions(cloud)) == 3


@pytest.mark.parametrize("state", ["FAILED", "SUSPENDED"])
def test_a_queue_that_gives_nothing_is_one_clear_line(cloud: Cloud, state: str) -> None:
    not_there(cloud, times=2)
    cloud.answer(f"{TPU} queued-resources describe", state)
    with pytest.raises(UsageError, match=f"did not provide mine \\({state}\\)"):
        tpu.main(RUN)


def test_what_gcloud_complains_about_is_passed_on(cloud: Cloud) -> None:
    cloud.answer(f"{TPU} tpu-vm describe", status=1, complains="ERROR: PERMISSION_DENIED:\nno such project")
    with pytest.raises(UsageError, match=r"failed: ERROR: PERMISSION_DENIED: no such project$"):
        tpu.main(RUN)
    assert len(cloud.calls()) == 1


def test_data_from_here(cloud: Cloud, checkout: pathlib.Path) -> None:
    cloud.answer(f"{TPU} tpu-vm describe", "READY", times=9)
    (checkout / "my archive.zip").write_text("zip")
    assert tpu.main([*RUN, "--data=my archive.zip"]) == 0
    assert f"{TPU} tpu-vm scp my archive.zip mine:my archive.zip --zone=us-west4-a --worker=all --recurse" in actions(
        cloud
    )
    assert any("'--config.data.dir=../my archive.zip'" in call for call in actions(cloud))


@pytest.mark.parametrize(
    ("data", "line", "place"),
    [
        ("gs://bucket/prepared/", "gcloud storage rsync --recursive gs://bucket/prepared/ data", "../data"),
        ("gs://bucket/archive.zip", "gcloud storage cp gs://bucket/archive.zip archive.zip", "../archive.zip"),
    ],
)
def test_data_from_a_bucket(cloud: Cloud, data: str, line: str, place: str) -> None:
    cloud.answer(f"{TPU} tpu-vm describe", "READY", times=9)
    assert tpu.main([*RUN, f"--data={data}"]) == 0
    assert any(call.endswith(line) for call in actions(cloud))
    assert any(call.endswith(f"--config.data.dir={place}") for call in actions(cloud))


def test_the_copy_holds_the_checkout_and_not_what_was_made_in_it(cloud: Cloud, checkout: pathlib.Path) -> None:
    worker = cloud.told / "worker"
    (worker / "bt_jax" / "bt_jax" / "launch").mkdir(parents=True)
    (worker / "bt_jax" / "bt_jax" / "launch" / "worker.sh").write_text("")
    cloud.answer(f"{TPU} tpu-vm describe", "READY", times=9)
    (checkout / "bt_jax" / "__pycache__").mkdir()
    assert tpu.main(RUN) == 0
    found = {str(path.relative_to(worker / "bt_jax")) for path in (worker / "bt_jax").rglob("*") if path.is_file()}
    assert found == {"launch.sh", "bt_jax/data/sources.py", "configs/effnet.py", "bt_jax/launch/worker.sh"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "mine", *WHERE, "--workdir=gs://b/r"], "--config is missing"),
        (["run", "mine", *WHERE, "--config=c"], "--workdir is missing"),
        (["run", "mine", *WHERE, "--spot", "--config=c", "--workdir=runs/a"], "which is lost with a spot slice"),
        (["run", "mine", *WHERE, "--config=c", "--workdir=/runs/a"], "a path in the checkout"),
        ([*RUN, "--data=nowhere"], "--data is 'nowhere', which does not exist"),
        (["run", "mine", *FLAGS], "--zone"),
        (["run", "mine", *WHERE, *FLAGS], "give --type"),
        (["run", "mine", *WHERE, *FLAGS, "--type=v9-8"], "--type is 'v9-8'"),
        ([*RUN, "--zoen=b"], "unrecognized arguments: --zoen=b"),
        (["run", "mine", *WHERE, "--config", "c"], "write --config=VALUE"),
        (["walk", "mine", *WHERE], "invalid choice"),
    ],
)
def test_a_mistake_is_one_clear_line(cloud: Cloud, arguments: list[str], message: str) -> None:
    not_there(cloud)
    with pytest.raises(UsageError) as caught:
        tpu.main(arguments)
    assert message in str(caught.value) and "\n" not in str(caught.value)
    assert actions(cloud) == []


def test_a_dry_run_prints_and_calls_nothing(
    cloud: Cloud, checkout: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert tpu.main([*RUN, "--spot", "--dry-run", "--delete", "--data=gs://bucket/data"]) == 0
    assert cloud.calls() == []
    lines = capsys.readouterr().out.splitlines()
    assert all(line.startswith("+ ") for line in lines)
    for part in (" create ", "+ tar ", " scp ", "worker.sh install", "worker.sh start", "worker.sh follow", " delete "):
        assert any(part in line for line in lines), part
    assert not (checkout / "runs" / "run").exists()


def test_gcloud_that_is_not_there_is_one_clear_line(
    checkout: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UsageError, match="gcloud is not installed"):
        tpu.main(RUN)


# The same on a worker that is a folder: gcloud's stand-in copies and runs there, and Python only says what it was for.

PYTHON = """\
#!/bin/sh
case "$*" in
  *"-m venv"*) mkdir -p "$4/bin" && cp "$0" "$4/bin/python" ;;
  *"-m pip install"*) echo "$*" > "$HOME/installed" ;;
  *constraints/*) echo constraints/python3.12.txt ;;
  *"-m bt_jax.main"*)
    trap 'echo saved; exit 143' TERM
    echo "training with $3 in $(basename "$PWD")"
    [ ! -e "$HOME/wait" ] || { echo waits; while :; do sleep 0.1; done; }
    exit "$(cat "$HOME/exit")" ;;
esac
"""


@pytest.fixture
def worker(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    home = cloud.told / "worker"
    (home / "programs").mkdir(parents=True)
    python = home / "programs" / "python3"
    python.write_text(PYTHON)
    python.chmod(0o755)
    (home / "exit").write_text("0")
    for name in ("launch.sh", "pyproject.toml", "constraints/python3.12.txt", "bt_jax/launch/worker.sh"):
        path = commands.ROOT / name
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, path)
    cloud.answer(f"{TPU} tpu-vm describe", "READY", times=99)
    return home


def test_a_worker_installs_runs_and_is_followed(
    cloud: Cloud, worker: pathlib.Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert tpu.main(RUN) == 0
    assert (worker / "installed").read_text().rstrip().endswith("-c constraints/python3.12.txt -e .[tpu]")
    assert "training with --config=configs/effnet.py in bt_jax" in capfd.readouterr().out
    assert tpu.main(["follow", "mine", *WHERE]) == 0
    assert "training with" in capfd.readouterr().out


def test_the_status_of_a_worker_is_passed_on(cloud: Cloud, worker: pathlib.Path) -> None:
    (worker / "exit").write_text("7")
    assert tpu.main(RUN) == 7
    assert not any("rsync" in call for call in cloud.calls())


def test_a_worker_is_stopped_by_a_signal_and_keeps_the_status(
    cloud: Cloud, worker: pathlib.Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (worker / "wait").touch()
    slice_ = tpu.TpuSlice(tpu._make_parser().parse_args(["run", "mine", *WHERE]), commands.Shell(dry_run=False))
    slice_.copy(None)
    slice_.start(FLAGS)
    log = worker / "bt_jax" / ".worker" / "log"
    for _ in range(100):
        if log.exists() and "waits" in log.read_text():
            break
        subprocess.run(["sleep", "0.05"], check=True)
    with pytest.raises(UsageError, match="status 2"):
        slice_.start(FLAGS)  # one is running
    assert "a run is under way here already" in capfd.readouterr().err
    assert tpu.main(["stop", "mine", *WHERE]) == 0
    assert slice_.follow() == 143
    assert "saved" in capfd.readouterr().out


def test_a_worker_without_a_run_cannot_be_followed(
    cloud: Cloud, worker: pathlib.Path, capfd: pytest.CaptureFixture[str]
) -> None:
    slice_ = tpu.TpuSlice(tpu._make_parser().parse_args(["run", "mine", *WHERE]), commands.Shell(dry_run=False))
    slice_.copy(None)
    assert slice_.follow() == 2
    assert "nothing was started here" in capfd.readouterr().err
