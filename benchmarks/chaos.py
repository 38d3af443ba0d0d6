"""Kills training at random moments, and checks that every run ends bit-identical to an uninterrupted one.

    python benchmarks/chaos.py --kills=100 --json=benchmarks/chaos.json

Trains a tiny network on phantoms in three ways: in one process; in one process with a worker that loads the images; in
two processes. Each run is killed several times in a row by SIGKILL or SIGTERM: during start or compilation, in a step,
during a save, or while it writes its report. Of two processes, a random one is killed. Each time the script checks that
no complete checkpoint is lost, that the other of two processes ends by itself, and that no process, zombie or shared
memory remains. Then the run may finish. Its logged numbers, predictions, latest and best checkpoint must be
bit-identical to those of the uninterrupted run. Exits with status 1 if any check fails.
"""

import argparse
import collections
import dataclasses
import datetime
import json
import os
import pathlib
import platform
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from typing import Any

ROOT = pathlib.Path(__file__).parent.parent
FIELDS = {
    "model.hidden": "(16,)",
    "data.phantoms_per_class": "(25,4)",
    "data.folds": "5",  # 40 steps
    "preprocess.size": "32",
    "stages.head_epochs": "2.0",
    "stages.epochs": "2.0",
    "train.batch_size": "8",
    "train.log_every": "1",
    "train.cached_views": "2",
    "eval.batch_size": "8",
    "eval.every_epochs": "0.7",
    "checkpoint.every_steps": "4",
}
WAYS = {"one": (1, ()), "workers": (1, ("--config.data.workers=1",)), "two": (2, ())}
MOMENTS = ("start", "step", "save", "report")
KILLS_OF_A_RUN = 5
MARK = "BT_CHAOS"  # in the environment of all processes that belong to a run


@dataclasses.dataclass
class Findings:
    """Counts of what happened, and a description of each failed check."""

    kills: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    statuses_of_the_other: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    slowest_end_of_the_other: float = 0.0
    runs: int = 0
    equal_runs: int = 0
    finished_before_the_kill: int = 0
    faults: list[str] = dataclasses.field(default_factory=list)


@dataclasses.dataclass(frozen=True)
class Place:
    """A run: its folders, and how to start it."""

    workdir: pathlib.Path
    cache: pathlib.Path
    way: str
    mark: str

    def start(self) -> list[subprocess.Popen[bytes]]:
        """Starts the processes of the run; their output goes to files beside the workdir."""
        count, flags = WAYS[self.way]
        fields = [f"--config.{name}={value}" for name, value in FIELDS.items()]
        base = [sys.executable, "-m", "bt_jax.main", "--config=configs/mlp.py:demo", f"--workdir={self.workdir}"]
        joined = [f"--coordinator=127.0.0.1:{_find_free_port()}", f"--processes={count}", "--heartbeat=10"]
        environment = {
            **os.environ, "BT_CACHE": str(self.cache), MARK: self.mark,
            "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]),
        }  # fmt: skip
        started = []
        for number in range(count):
            with self.workdir.with_name(f"{self.workdir.name}_{number}.log").open("ab") as log:
                started.append(subprocess.Popen(
                    [*base, *fields, *flags, *([*joined, f"--process={number}"] if count > 1 else [])],
                    cwd=ROOT, env=environment, stdout=log, stderr=log,
                ))  # fmt: skip
        return started

    def read_log(self) -> str:
        """Returns the last output of the first process."""
        return self.workdir.with_name(f"{self.workdir.name}_0.log").read_text(encoding="utf-8", errors="replace")[
            -2000:
        ]

    def list_checkpoints(self) -> list[int]:
        """Lists the steps of the complete checkpoints."""
        folder = self.workdir / "checkpoints"
        return sorted(int(path.name) for path in folder.iterdir() if path.name.isdigit()) if folder.exists() else []

    def read_last_step(self) -> int:
        """Returns the last step in the log."""
        log = self.workdir / "metrics.jsonl"
        lines = log.read_text(encoding="utf-8").splitlines(keepends=True) if log.exists() else []
        return max((json.loads(line)["step"] for line in lines if line.endswith("\n")), default=0)


def main() -> int:
    """Parses the arguments, kills runs, and writes the findings."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=100, help="total number of kills")
    parser.add_argument("--seed", type=int, default=0, help="seed of the random moments")
    parser.add_argument("--ways", default=",".join(WAYS), help="any of: " + ", ".join(WAYS))
    parser.add_argument("--json", type=pathlib.Path, help="file to write the findings to")
    arguments = parser.parse_args()
    ways = arguments.ways.split(",")
    if unknown := set(ways) - WAYS.keys():
        parser.error(f"there is no way {', '.join(unknown)}: use {', '.join(WAYS)}")
    generator, findings, begin = random.Random(arguments.seed), Findings(), time.monotonic()
    with tempfile.TemporaryDirectory(prefix="chaos_") as folder:
        references = {way: _train_reference(pathlib.Path(folder), way) for way in ways}
        while sum(findings.kills.values()) < arguments.kills:
            way = ways[findings.runs % len(ways)]
            left = arguments.kills - sum(findings.kills.values())
            _test_run(pathlib.Path(folder), way, references[way], min(KILLS_OF_A_RUN, left), generator, findings)
            print(
                f"{sum(findings.kills.values())} kills, {findings.equal_runs} of {findings.runs} runs equal, "
                f"{len(findings.faults)} faults, {time.monotonic() - begin:.0f} s",
                flush=True,
            )
    result = {
        "schema": 1,
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        "seed": arguments.seed,
        "kills": sum(findings.kills.values()),
        "kills_by_way_signal_and_moment": dict(sorted(findings.kills.items())),
        "finished_before_the_kill": findings.finished_before_the_kill,
        "runs": findings.runs,
        "runs_with_the_bits_of_the_uninterrupted_one": findings.equal_runs,
        "status_of_the_other_process": dict(sorted(findings.statuses_of_the_other.items())),
        "slowest_end_of_the_other_process_s": round(findings.slowest_end_of_the_other, 1),
        "faults": findings.faults,
        "seconds": round(time.monotonic() - begin, 1),
    }
    print(json.dumps(result, indent=2))
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    return 1 if findings.faults or findings.equal_runs < findings.runs else 0


def _train_reference(folder: pathlib.Path, way: str) -> pathlib.Path:
    place = Place(folder / f"reference_{way}", folder / f"cache_{way}", way, f"reference-{os.getpid()}")
    statuses = [process.wait() for process in place.start()]
    if any(statuses):
        raise SystemExit(f"the uninterrupted run ({way}) ended with {statuses}:\n{place.read_log()}")
    return place.workdir


def _test_run(
    folder: pathlib.Path, way: str, reference: pathlib.Path, kills: int, generator: random.Random, findings: Findings
) -> None:
    """Kills a run several times, and then lets it finish."""
    number = findings.runs
    findings.runs += 1
    # Each run has its own cache, so that its first starts compile programs and compute features.
    place = Place(folder / f"run_{number}", folder / f"cache_{number}", way, f"{os.getpid()}-{number}")
    before = _list_shared_memory()
    for _ in range(kills):
        _kill_once(place, generator, findings)
    statuses = [process.wait() for process in place.start()]
    what = f"run {number} ({way})"
    if any(statuses):
        findings.faults.append(f"{what} did not finish: {statuses}: {place.read_log()}")
    elif different := describe_difference(place.workdir, reference):
        findings.faults.append(f"{what} ended with other {different}")
    else:
        findings.equal_runs += 1
    _check_nothing_is_left(place, before, what, findings)
    shutil.rmtree(place.workdir, ignore_errors=True)
    shutil.rmtree(place.cache, ignore_errors=True)


def _kill_once(place: Place, generator: random.Random, findings: Findings) -> None:
    """Starts the run and kills one of its processes at a random moment."""
    number, moment = generator.choice([signal.SIGKILL, signal.SIGTERM]), generator.choice(MOMENTS)
    complete, memory = place.list_checkpoints(), _list_shared_memory()
    processes = place.start()
    victim = generator.choice(processes)
    begun = place.read_last_step()
    wait: dict[str, Callable[[], bool]] = {
        "start": lambda: False,
        "step": lambda: place.read_last_step() >= target,
        "save": lambda: any((place.workdir / "checkpoints").glob("*tmp*")),
        "report": lambda: (place.workdir / "report").exists(),
    }
    target = generator.randrange(begun, 41)
    seconds = generator.uniform(0, 8) if moment == "start" else 90
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and victim.poll() is None and not wait[moment]():
        time.sleep(0.002)
    if moment == "step":
        time.sleep(generator.uniform(0, 0.1))
    what = f"{place.way}, {number.name}, {moment}"
    if victim.poll() is not None:
        findings.finished_before_the_kill += 1
    else:
        victim.send_signal(number)
        findings.kills[what] += 1
    begin = time.monotonic()
    for process in processes:
        try:
            process.wait(timeout=90)
        except subprocess.TimeoutExpired:
            findings.faults.append(f"{what}: a process did not end within 90 s: {place.read_log()}")
            process.kill()
            process.wait()
    for process in processes:
        if process is not victim:
            findings.statuses_of_the_other[str(process.returncode)] += 1
            findings.slowest_end_of_the_other = max(findings.slowest_end_of_the_other, time.monotonic() - begin)
    if complete and max(place.list_checkpoints(), default=0) < complete[-1]:
        findings.faults.append(f"{what}: the checkpoint of step {complete[-1]} is lost")
    _check_nothing_is_left(place, memory, what, findings)


def _check_nothing_is_left(place: Place, memory: set[str], what: str, findings: Findings) -> None:
    deadline = time.monotonic() + 30  # workers take a while to notice that their parent is gone
    while (left := _list_processes(place.mark)) and time.monotonic() < deadline:
        time.sleep(0.1)
    for process in left:
        findings.faults.append(f"{what}: process {process} is left")
        os.kill(process, signal.SIGKILL)
    if zombies := _list_zombies():
        findings.faults.append(f"{what}: zombies {zombies}")
    while (names := _list_shared_memory() - memory) and time.monotonic() < deadline:
        time.sleep(0.1)
    if names:
        findings.faults.append(f"{what}: shared memory {sorted(names)} is left")


def _list_processes(mark: str) -> list[int]:
    """Lists the processes of a run, by the mark in their environment."""
    found = []
    for path in pathlib.Path("/proc").glob("[0-9]*"):
        try:
            if f"{MARK}={mark}\0".encode() in (path / "environ").read_bytes() and _read_state(path) != "Z":
                found.append(int(path.name))
        except OSError:  # it has ended, or belongs to another user
            continue
    return found


def _list_zombies() -> list[int]:
    """Lists the zombie children of this process."""
    found = []
    for path in pathlib.Path("/proc").glob("[0-9]*"):
        try:
            if _read_state(path) == "Z" and int(_read_status(path)[1]) == os.getpid():
                found.append(int(path.name))
        except OSError:
            continue
    return found


def _read_state(process: pathlib.Path) -> str:
    return _read_status(process)[0]


def _read_status(process: pathlib.Path) -> list[str]:
    """Reads state and parent of a process."""
    return (process / "stat").read_text(encoding="utf-8").rpartition(")")[2].split()


def _list_shared_memory() -> set[str]:
    folder = pathlib.Path("/dev/shm")
    return {path.name for path in folder.iterdir()} if folder.exists() else set()


def _find_free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def describe_difference(a: pathlib.Path, b: pathlib.Path) -> str:
    """Describes how two finished runs differ; empty if they are bit-identical."""
    if _read_rows(a) != _read_rows(b):
        return "logged numbers"
    for name in ("calibration.json", "report/validation/predictions.csv", "report/testing/predictions.csv"):
        if (a / name).read_bytes() != (b / name).read_bytes():
            return name
    kept = [_find_latest_and_best(folder) for folder in (a, b)]
    if kept[0] != kept[1]:
        return f"checkpoints: {kept[0]} instead of {kept[1]}"
    for step in sorted(set(kept[0])):
        contents = [_read_arrays(folder / "checkpoints" / str(step)) for folder in (a, b)]
        if contents[0] != contents[1]:
            return f"arrays in the checkpoint of step {step}"
    return ""


def _read_rows(workdir: pathlib.Path) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    return [{name: value for name, value in row.items() if name != "train/images_per_s"} for row in rows]


def _find_latest_and_best(workdir: pathlib.Path) -> tuple[int, int]:
    latest = max(int(path.name) for path in (workdir / "checkpoints").iterdir() if path.name.isdigit())
    metadata = json.loads((workdir / "checkpoints" / str(latest) / "_CHECKPOINT_METADATA").read_text(encoding="utf-8"))
    return latest, int(metadata["custom_metadata"]["progress"]["best_step"])


def _read_arrays(checkpoint: pathlib.Path) -> dict[str, bytes]:
    import jax
    import numpy as np
    from orbax.checkpoint import v1 as ocp

    here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        shapes = ocp.checkpointables_metadata(checkpoint).metadata
        wanted = {
            name: jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=here), shapes[name])
            for name in ("evaluation", "training")
        }
        content = ocp.load_checkpointables(checkpoint, wanted)
    leaves = jax.tree_util.tree_leaves_with_path(content)
    return {jax.tree_util.keystr(path): np.asarray(leaf).tobytes() for path, leaf in leaves}


if __name__ == "__main__":
    sys.exit(main())
