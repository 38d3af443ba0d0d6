"""The records in a run's folder: its configuration, the machine and the data, and the time of each phase."""

import contextlib
import dataclasses
import datetime
import importlib.metadata
import json
import pathlib
import platform
import subprocess
import time
import types
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

import jax

from bt_jax.common import files, locks
from bt_jax.common.errors import UsageError
from bt_jax.distributed import processes
from bt_jax.workdir import remote
from bt_jax.workdir.checkpoint import Checkpoints

SCHEMA = 1
# Fields that do not change the result of a run: how often it logs and saves, and how it loads.
FREE_FIELDS = (
    "checkpoint.every_steps",
    "data.dir",
    "data.memory_gb",
    "data.source",
    "data.threads",
    "data.workers",
    "mesh.sharded",
    "mesh.sharded_from",
    "profile",
    "train.slow_step",
)
_PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy", "pillow", "scikit-learn")


@contextlib.contextmanager
def lock(workdir: pathlib.Path) -> Iterator[None]:
    """Locks a folder against other runs. The lock ends with the process, however it ends.

    In a run of several processes, the first one holds the lock.

    Raises:
      UsageError: another process holds the lock, or this folder differs from that of the first process.
    """
    files.check_folder(workdir, flag="workdir")
    workdir.mkdir(parents=True, exist_ok=True)
    if not processes.is_first():
        processes.wait_for_all(f"the lock of {workdir.name}")
        if not (workdir / "lock").exists() and not remote.get_bucket(workdir):
            raise UsageError(f"{workdir} is not the same folder on all hosts: use one that they share, or a gs:// path")
        yield
        return
    busy = f"another process is training in {workdir}: wait for it or use another --workdir"
    with locks.lock(workdir / "lock", busy=busy):
        processes.wait_for_all(f"the lock of {workdir.name}")
        yield


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flattens nested dicts to {"a.b": value}, with lists in place of tuples, as JSON returns them."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = list(value) if isinstance(value, tuple) else value
    return flat


def write_config(
    workdir: pathlib.Path,
    config: Mapping[str, Any],
    *,
    defaults: Mapping[str, Any] = types.MappingProxyType({}),
    resuming: bool,
) -> None:
    """Writes `config.json`. When resuming, first checks that the existing one is of the same run.

    Args:
      workdir: of the run.
      config: nested fields.
      defaults: nested fields. A field that either configuration lacks has its default, so that a run that began before
        the field existed can be resumed. So can one that began with a field that is no more, if it was off.
      resuming: whether the run has begun before.

    Raises:
      UsageError: the configuration of the run to resume differs; the message lists the fields.
    """
    path = workdir / "config.json"
    if resuming and path.exists():
        before, now = (
            flatten(defaults) | flatten(fields) for fields in (json.loads(path.read_bytes())["config"], config)
        )
        before = {name: value for name, value in before.items() if value or name in now}
        if different := describe_differences(before, now, free=FREE_FIELDS):
            raise UsageError(
                f"{workdir} holds a run with another configuration: {different}. "
                f"Use another --workdir, or the same fields to resume it"
            )
    if processes.is_first():
        files.write_json(path, {"schema": SCHEMA, "config": dict(config)})


def format_settings(settings: Mapping[str, Any]) -> str:
    """Formats the settings that are not off as `name value, name value`."""
    return ", ".join(f"{name} {value}" for name, value in settings.items() if value)


def describe_differences(before: Mapping[str, Any], now: Mapping[str, Any], *, free: Collection[str]) -> str:
    """Describes the fields, except those in `free`, in which two flat configurations differ; empty if none."""
    return "; ".join(
        f"config.{field} was {before.get(field)!r} and is {now.get(field)!r}"
        for field in sorted(before.keys() | now.keys())
        if before.get(field) != now.get(field) and field not in free
    )


def write_split(workdir: pathlib.Path, content: bytes, *, resuming: bool) -> None:
    """Writes `split.csv`. When resuming, checks that the images and their split are those of the first start.

    Args:
      workdir: of the run.
      content: of the file, see `split_table.SplitTable.csv`.
      resuming: whether the run has begun before.

    Raises:
      UsageError: they differ.
    """
    path = workdir / "split.csv"
    if not resuming or not path.exists():
        if processes.is_first():
            files.write_bytes(path, content)
    elif content != path.read_bytes():
        raise UsageError(f"the images differ from the list in {path}: use another --workdir, or the same data")


@dataclasses.dataclass
class RunRecord:
    """The content of `run.json`: versions, devices, provenance, and seconds by phase, summed over restarts."""

    path: pathlib.Path
    content: dict[str, Any]

    @classmethod
    def open(cls, workdir: pathlib.Path) -> "RunRecord":
        """Opens the record in the folder, or creates one."""
        path = workdir / "run.json"
        content = (
            json.loads(path.read_bytes())
            if path.exists()
            else {"schema": SCHEMA, "starts": [], "seconds": {}, "seconds_by_stage": {}}
        )
        content["versions"] = get_versions()
        content["commit"] = _describe_commit()
        content["devices"] = [str(device) for device in jax.devices()]
        content["platform"] = f"{platform.system()} {platform.machine()}, {jax.default_backend()}"
        return cls(path, content)

    def record_start(self, *, step: int, **facts: Any) -> None:
        """Records a start or restart, with facts about its data and model."""
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        self.content["starts"].append({"time": now, "step": step})
        self.content |= facts
        self.save()

    def record_first_step(self, seconds: float) -> None:
        """Records the seconds from the start of the process to the end of its first training step."""
        self.content["starts"][-1]["first_step_s"] = round(seconds, 1)

    def get_provenance(self) -> dict[str, str]:
        """Returns what identifies the images, weights and code of the run, as far as it is known."""
        known = {
            "images and split, SHA-256": self.content.get("data", {}).get("sha256"),
            "weights, SHA-256": self.content.get("model", {}).get("weights_sha256"),
            "commit": self.content.get("commit"),
        }
        return {what: value for what, value in known.items() if value}

    def get_total_seconds(self) -> float:
        """Returns the seconds spent on data and training so far, over all restarts."""
        return self.content["seconds"].get("data", 0.0) + sum(self.content["seconds_by_stage"].values())

    def add_seconds(self, phase: str, seconds: float) -> None:
        """Adds seconds spent on a phase."""
        self.content["seconds"][phase] = self.content["seconds"].get(phase, 0.0) + seconds

    def add_stage_seconds(self, stage: int, seconds: float) -> None:
        """Adds seconds spent on a stage: steps, evaluations, checkpoints, and waiting for compilation."""
        times = self.content["seconds_by_stage"]
        times[str(stage)] = times.get(str(stage), 0.0) + seconds

    @contextlib.contextmanager
    def time_phase(self, phase: str) -> Iterator[None]:
        """Measures the block and adds its seconds to a phase."""
        begin = time.monotonic()
        try:
            yield
        finally:
            self.add_seconds(phase, time.monotonic() - begin)

    def save(self) -> None:
        """Writes `run.json`, in the first process only."""
        if not processes.is_first():
            return
        rounded = {
            kind: {name: round(seconds, 3) for name, seconds in self.content[kind].items()}
            for kind in ("seconds", "seconds_by_stage")
        }
        files.write_json(self.path, self.content | rounded)


@dataclasses.dataclass(frozen=True)
class OpenRun:
    """The folder of a run while this process trains in it.

    Attributes:
      folder: the workdir.
      checkpoints: in it.
      record: `run.json`.
      began: `time.monotonic()` when the command began.
      copy: copies the folder to a bucket; None where there is none.
    """

    folder: pathlib.Path
    checkpoints: Checkpoints
    record: RunRecord
    began: float
    copy: Callable[[], None] | None = None

    def publish(self) -> None:
        """Copies the folder's changed files to the bucket, if there is one."""
        if self.copy is not None:
            self.copy()


@contextlib.contextmanager
def open_run(
    folder: pathlib.Path, *, began: float | None = None, publish: Callable[[], None] | None = None
) -> Iterator[OpenRun]:
    """Locks a workdir, creating it if needed, and opens its record and checkpoints.

    On exit it waits for the checkpoint that is being saved. After a run that raised nothing it publishes the files and
    waits for the other processes.

    Args:
      folder: the workdir. All hosts must see the same one.
      began: `time.monotonic()` when the command began; None: now.
      publish: called when files in the folder have changed; None: nothing is.

    Raises:
      UsageError: another process trains in the folder, or it is not the same folder on all hosts.
    """
    began = time.monotonic() if began is None else began  # before what opening takes
    with lock(folder):
        with contextlib.closing(Checkpoints(folder, warn=processes.say)) as checkpoints:
            run = OpenRun(
                folder=folder,
                checkpoints=checkpoints,
                record=RunRecord.open(folder),
                began=began,
                copy=publish,
            )
            yield run
        run.publish()
        processes.wait_for_all(f"the report in {folder.name}")


def get_versions() -> dict[str, str]:
    """Returns the versions of Python and of the packages that affect the result."""
    return {"python": platform.python_version(), **{name: importlib.metadata.version(name) for name in _PACKAGES}}


def _describe_commit() -> str | None:
    """Returns the commit of this checkout, with `+` if files differ from it; None outside of git.

    A package that is installed into a folder of another repository is not in git: that commit is not its own.
    """
    try:
        _ask_git("ls-files", "--error-unmatch", pathlib.Path(__file__).name)
        return _ask_git("describe", "--always", "--dirty=+", "--abbrev=12", "--exclude=*")
    except (OSError, subprocess.SubprocessError):
        return None


def _ask_git(*arguments: str) -> str:
    """Returns what git says about the folder of this file."""
    done = subprocess.run(
        ["git", *arguments],
        cwd=pathlib.Path(__file__).parent, capture_output=True, encoding="utf-8", timeout=10, check=True,
    )  # fmt: skip
    return done.stdout.strip()
