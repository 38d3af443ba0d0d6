"""Runs bt_jax.main on all workers of a Cloud TPU slice, and creates the slice if it does not exist.

    ./launch.sh tpu run NAME --zone=us-west4-a --type=v5litepod-16 --spot \\
        --data=gs://BUCKET/prepared --config=configs/effnet.py --workdir=gs://BUCKET/run
    ./launch.sh tpu follow NAME --zone=us-west4-a
    ./launch.sh tpu fetch NAME --zone=us-west4-a --workdir=gs://BUCKET/run
    ./launch.sh tpu delete NAME --zone=us-west4-a

`run` requests the slice through a queued resource of the same name, copies this checkout, installs it with the extra
tpu, starts bt_jax.main on every worker in the background, and follows the log of the first worker. Ctrl-C ends only the
following. After a successful run, the workdir is fetched. A preempted spot slice is created again, and the run resumes
from its last checkpoint, which requires a workdir on gs://. The slice stays, and is charged, until it is deleted
(`--delete`, or the action `delete`). Needs gcloud, signed in, with a project set.
"""

import argparse
import pathlib
import shlex
import tempfile
import time
from collections.abc import Sequence

from bt_jax.common.errors import UsageError
from bt_jax.launch import commands

# Names in a worker's home folder.
_FOLDER, _ARCHIVE, _DATA = "bt_jax", "bt_jax.tar.gz", "data"
_WORKER_SCRIPT = f"bash {_FOLDER}/bt_jax/launch/worker.sh"
# Files that are made or fetched on this machine and not needed on another.
_LEFT_OUT = (
    *("./.git", "./.venv", "./.worker", "./runs", "./build", "./data"),
    *("__pycache__", "*.egg-info", ".mypy_cache", ".pytest_cache", ".ruff_cache", ".hypothesis"),
)
# The system image for each generation of TPUs: https://cloud.google.com/tpu/docs/runtimes
_RUNTIMES = {
    "v5litepod": "v2-alpha-tpuv5-lite",
    "v5p": "v2-alpha-tpuv5",
    "v6e": "v2-alpha-tpuv6e",
    "v4": "tpu-ubuntu2204-base",
    "v3": "tpu-ubuntu2204-base",
    "v2": "tpu-ubuntu2204-base",
}
_POLL_SECONDS = 30.0
_SSH_BROKE = 255  # the exit status of ssh when the connection breaks
_FOLLOW_AGAIN = 5  # number of connections while the slice is available


def main(arguments: Sequence[str]) -> int:
    """Runs an action."""
    own, flags = commands.split_flags(arguments)
    options = _make_parser().parse_args(own)
    slice_ = TpuSlice(options, commands.Shell(dry_run=options.dry_run))
    if options.action == "run":
        return _run(slice_, options, flags)
    if options.action == "follow":
        return slice_.follow()
    if options.action == "stop":
        slice_.ssh(f"{_WORKER_SCRIPT} stop")
    elif options.action == "fetch":
        slice_.fetch(_get_workdir(flags))
    else:
        slice_.delete()
    return 0


def _make_parser() -> commands.Options:
    parser = commands.Options(__doc__ or "", command="tpu")
    parser.add_argument("action", choices=("run", "follow", "stop", "fetch", "delete"), help="action to run")
    parser.add_argument("name", help="name of the slice and its queued resource")
    parser.add_argument("--zone", required=True, help="zone of the slice, such as us-west4-a")
    parser.add_argument("--project", help="project of Google Cloud (default: that of gcloud)")
    parser.add_argument("--type", help="accelerator type, such as v5litepod-16, v5p-8, v6e-8")
    parser.add_argument("--runtime", help="system image (default: the one for the type)")
    parser.add_argument(
        "--spot", action="store_true", help="use a spot slice: cheaper, but can be preempted at any time"
    )
    parser.add_argument("--direct", action="store_true", help="create the slice directly, not through the queue")
    parser.add_argument("--data", help="folder or zip file here, or gs://BUCKET/FOLDER, to copy to each worker")
    parser.add_argument(
        "--restarts", type=int, default=20, help="times to create a preempted slice again (default: 20)"
    )
    parser.add_argument("--delete", action="store_true", help="delete the slice after a successful run")
    return parser


def _run(slice_: "TpuSlice", options: argparse.Namespace, flags: list[str]) -> int:
    commands.require_checkout("tpu run")
    commands.require_config(flags)
    workdir = _get_workdir(flags)
    if options.spot and not workdir.startswith("gs://"):
        raise UsageError(f"--workdir is {workdir!r}, which is lost with a spot slice: use --workdir=gs://BUCKET/FOLDER")
    if not workdir.startswith("gs://") and pathlib.PurePosixPath(workdir).is_absolute():
        raise UsageError(f"--workdir is {workdir!r}: use gs://BUCKET/FOLDER or a path in the checkout")
    if options.data and not options.data.startswith("gs://") and not (commands.get_folder() / options.data).exists():
        raise UsageError(
            f"--data is {options.data!r}, which does not exist: give a folder, a zip file or gs://BUCKET/FOLDER"
        )
    for _ in range(options.restarts + 1 if options.spot else 1):
        slice_.make()
        slice_.copy(options.data)
        slice_.start(flags if not options.data else [*flags, f"--config.data.dir=../{_get_data_place(options.data)}"])
        status = slice_.follow()
        if not status:
            slice_.fetch(workdir)
            if options.delete:
                slice_.delete()
            return 0
        if not options.spot or not slice_.is_gone():
            return status
        slice_.shell.say("the slice was preempted: creating it again, to resume from the last checkpoint")
    raise UsageError(f"{options.name} was preempted {options.restarts + 1} times: run the same command to resume")


def _get_workdir(flags: Sequence[str]) -> str:
    workdir = commands.get_value(flags, "--workdir")
    if not workdir:
        raise UsageError("--workdir is missing: give a folder, such as gs://BUCKET/FOLDER, which outlives the slice")
    return workdir.rstrip("/")


def _get_data_place(data: str) -> str:
    """Returns the place of the data in a worker's home folder; a zip file keeps its name."""
    return data.rstrip("/").rsplit("/")[-1] if data.endswith(".zip") else _DATA


class TpuSlice:
    """A TPU slice, managed through gcloud."""

    def __init__(self, options: argparse.Namespace, shell: commands.Shell):
        self.shell = shell
        self._name: str = options.name
        self._options = options
        self._where = [f"--zone={options.zone}"]
        if options.project:
            self._where.append(f"--project={options.project}")

    def make(self) -> None:
        """Creates the slice unless it is ready; a preempted one is deleted first."""
        state = self._get_state()
        if state == "READY":
            self.shell.say(f"{self._name} is ready")
            return
        if state in ("PREEMPTED", "TERMINATED", "STOPPED", "SUSPENDED", "FAILED"):
            self.delete()
            state = None
        if state is None:
            self._ask_for()
        self._wait()

    def _ask_for(self) -> None:
        kind = self._options.type
        if not kind:
            raise UsageError(f"{self._name} does not exist: give --type, such as --type=v5litepod-16, to create it")
        runtime = self._options.runtime or _RUNTIMES.get(kind.split("-")[0])
        if runtime is None:
            raise UsageError(f"--type is {kind!r}: use one of {', '.join(_RUNTIMES)} with a number, or give --runtime")
        spot = ["--spot"] if self._options.spot else []
        if self._options.direct:
            command = ["gcloud", "compute", "tpus", "tpu-vm", "create", self._name]
            self.shell.run(*command, *self._where, f"--accelerator-type={kind}", f"--version={runtime}", *spot)
        else:
            command = ["gcloud", "compute", "tpus", "queued-resources", "create", self._name]
            what = [f"--node-id={self._name}", f"--accelerator-type={kind}", f"--runtime-version={runtime}"]
            self.shell.run(*command, *self._where, *what, *spot, "--async")

    def _wait(self) -> None:
        """Returns when the slice is ready."""
        said = None
        while True:
            state = self._get_state()
            if state == "READY" or self.shell.dry_run:
                return
            queued = None if self._options.direct else self._get_queued_state()
            if queued in ("FAILED", "SUSPENDED"):
                program = commands.name_program("tpu")
                raise UsageError(
                    f"the queue did not provide {self._name} ({queued}): {program} delete {self._name} "
                    f"{shlex.join(self._where)}, then run the command again, perhaps in another zone"
                )
            now = state or queued or "gone"
            if now == "gone":
                raise UsageError(f"{self._name} is neither available nor in the queue any more: run the command again")
            if now != said:
                self.shell.say(f"{self._name}: {now}")
                said = now
            time.sleep(_POLL_SECONDS)

    def _get_state(self) -> str | None:
        return self._query("tpu-vm", "value(state)")

    def _get_queued_state(self) -> str | None:
        return self._query("queued-resources", "value(state.state)")

    def _query(self, kind: str, form: str) -> str | None:
        command = ("gcloud", "compute", "tpus", kind, "describe", self._name, *self._where, f"--format={form}")
        status, output, errors = self.shell.ask(*command)
        if not status:
            return output
        if "NOT_FOUND" in errors or "not found" in errors.lower():
            return None
        raise UsageError(f"{shlex.join(command)} failed: {' '.join(errors.split())}")

    def is_gone(self) -> bool:
        """Returns whether the slice was or is about to be preempted: its workers get half a minute to stop."""
        for _ in range(4):
            if self._get_state() not in ("READY", "RESTARTING", "REPAIRING"):
                return True
            time.sleep(_POLL_SECONDS)
        return False

    def copy(self, data: str | None) -> None:
        """Copies the checkout, installs it, and copies the data, on every worker."""
        with tempfile.TemporaryDirectory() as folder:
            archive = str(pathlib.Path(folder) / _ARCHIVE)
            left_out = [f"--exclude={name}" for name in _LEFT_OUT]
            self.shell.run("tar", "-c", "-z", "-f", archive, *left_out, "-C", str(commands.ROOT), ".")
            self.scp(archive, f"{self._name}:{_ARCHIVE}", "--worker=all")
        self.ssh(f"mkdir -p {_FOLDER} && tar -x -z -f {_ARCHIVE} -C {_FOLDER} && {_WORKER_SCRIPT} install")
        if data is None:
            return
        place = _get_data_place(data)
        if not data.startswith("gs://"):
            self.ssh(f"rm -rf {shlex.quote(place)}")  # scp would copy into an existing folder
            self.scp(data, f"{self._name}:{place}", "--worker=all", "--recurse")
        elif place == _DATA:
            self.ssh(f"mkdir -p {_DATA} && gcloud storage rsync --recursive {shlex.quote(data)} {_DATA}")
        else:
            self.ssh(f"gcloud storage cp {shlex.quote(data)} {shlex.quote(place)}")

    def start(self, flags: Sequence[str]) -> None:
        """Starts bt_jax.main on every worker."""
        self.ssh(f"{_WORKER_SCRIPT} start {shlex.join(flags)}")

    def follow(self) -> int:
        """Prints the first worker's log until the run ends, and returns its status."""
        for _ in range(_FOLLOW_AGAIN):
            status = self._follow_once()
            if status != _SSH_BROKE or self._get_state() != "READY":
                break
            self.shell.say("the connection broke: reconnecting")
        return status

    def _follow_once(self) -> int:
        command = ("gcloud", "compute", "tpus", "tpu-vm", "ssh", self._name)
        return self.shell.status(*command, *self._where, "--worker=0", f"--command={_WORKER_SCRIPT} follow")

    def fetch(self, workdir: str) -> None:
        """Copies the workdir to the same path here, or from gs:// to a folder of its name in `runs/`."""
        if workdir.startswith("gs://"):
            here = f"runs/{workdir.rsplit('/')[-1]}"
            self.shell.run("mkdir", "-p", here)
            self.shell.run("gcloud", "storage", "rsync", "--recursive", workdir, here)
        else:
            parent = str(pathlib.PurePosixPath(workdir).parent)
            self.shell.run("mkdir", "-p", parent)
            self.scp(f"{self._name}:{_FOLDER}/{workdir}", parent, "--worker=0", "--recurse")

    def delete(self) -> None:
        """Deletes the slice and its queued resource, if they exist."""
        tpus = ("gcloud", "compute", "tpus")
        if self._options.direct or (not self.shell.dry_run and self._get_queued_state() is None):
            if self.shell.dry_run or self._get_state() is not None:
                self.shell.run(*tpus, "tpu-vm", "delete", self._name, *self._where, "--quiet")
            else:
                self.shell.say(f"{self._name} does not exist")
        else:
            self.shell.run(*tpus, "queued-resources", "delete", self._name, *self._where, "--force", "--quiet")

    def ssh(self, line: str) -> None:
        """Runs a command line on every worker."""
        command = ("gcloud", "compute", "tpus", "tpu-vm", "ssh", self._name)
        self.shell.run(*command, *self._where, "--worker=all", f"--command={line}")

    def scp(self, source: str, target: str, *options: str) -> None:
        """Copies between this machine and the workers."""
        self.shell.run("gcloud", "compute", "tpus", "tpu-vm", "scp", source, target, *self._where, *options)


if __name__ == "__main__":
    commands.run_launcher(main)
