"""Measures the training of EfficientNet-B1 on one GPU, phase by phase, in minutes.

    python benchmarks/gpu.py --out=benchmarks/gpu
    python benchmarks/gpu.py --out=FOLDER --phases=step,peers --seconds=400
    python benchmarks/gpu.py --out=FOLDER --batch=2 --size=64 --steps=2        a trial without a GPU

Every phase is a process of its own, which writes FOLDER/PHASE.json. It is killed, with all that it started, at its
limit or at the end of the time (`--seconds`). Each figure is written as soon as it is known. `gpu.json` says what ran,
for how long, and what did not end. The phases share a cache of compiled programs. What the compiler measured is kept in
FOLDER/autotune_PHASE.txt, for `--autotuned` on the same card.

facts    card, driver, versions, and the ceilings: a copy of 2 GiB, a product of random bfloat16
step     the training step as it is: seconds to compile, images/s, its kernels by time, the compiled program as text
peers    timm's training step, alone, uncompiled and compiled
taps     on a GPU only: as `step`, with depthwise convolutions and their input gradients as sums of shifted products
known    as `step`, for a program to which the stage is known at compile time: without conditionals and selects
infer    `bt_jax.benchmark --mode=infer --peers`: the forward pass in turns with timm's
correct  loss, logits and gradients on the GPU in float32 and bfloat16 against float32 on the CPU
train    `bt_jax.benchmark --mode=train --peers`: the training step in turns with timm's
run      `bt_jax.main` on the images of `--data`, all folds one after the other, into FOLDER/run_SEED; with `--seeds`,
         seeds side by side, which wait for the programs of the first one: then its times mean nothing
"""

import argparse
import collections
import contextlib
import dataclasses
import functools
import gzip
import json
import os
import pathlib
import platform
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from bt_jax.benchmark import machine
from bt_jax.common import files

ROOT = pathlib.Path(__file__).parent.parent
CONFIG = "configs/effnet.py"
HAS_GPU = pathlib.Path("/dev/nvidiactl").exists()
START = time.monotonic()


def main() -> None:
    """Runs the phases, one process after the other."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=pathlib.Path, required=True, help="folder for the results")
    measured = [phase for phase in PHASES if phase not in ("run", "taps")]
    parser.add_argument("--phases", default=",".join(measured), help="those to run, in this order")
    parser.add_argument("--batch", type=int, default=256, help="images in a step")
    parser.add_argument("--size", type=int, default=240, help="side of the images in pixels")
    parser.add_argument("--steps", type=int, default=30, help="steps of a measurement")
    parser.add_argument("--repeats", type=int, default=5, help="measurements of each program and each peer")
    parser.add_argument("--seconds", type=float, default=500.0, help="time for all phases together")
    parser.add_argument("--cache", type=pathlib.Path, help="folder of compiled programs to use again; else a new one")
    parser.add_argument("--data", type=pathlib.Path, help="images of the phase run")
    parser.add_argument("--seeds", type=int, default=1, help="seeds of the phase run, side by side, from 0 on")
    parser.add_argument("--settings", default="", help="flags of the phase run, such as --config.stages.programs=1")
    parser.add_argument("--autotuned", type=pathlib.Path, help="autotune_PHASE.txt of an earlier run on the same card")
    parser.add_argument("--phase", choices=PHASES, help=argparse.SUPPRESS)  # what a process of its own runs
    options = parser.parse_args()
    if "run" in options.phases.split(",") and options.data is None:
        parser.error("the phase run needs --data")
    if "taps" in options.phases.split(",") and not HAS_GPU:
        parser.error("the phase taps needs a GPU: a CPU has another form of depthwise convolutions")
    options.out.mkdir(parents=True, exist_ok=True)
    if options.phase is not None:
        PHASES[options.phase].run(options)
        return
    deadline = time.monotonic() + options.seconds
    commit = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, encoding="utf-8")
    report: dict[str, Any] = {"commit": commit.stdout.strip() or None, "phases": {}}
    with contextlib.ExitStack() as stack:
        cache = str(options.cache or stack.enter_context(tempfile.TemporaryDirectory()))
        for phase in options.phases.split(","):
            begin = time.monotonic()
            limit = min(PHASES[phase].limit_s, deadline - begin)
            _say(f"{phase}: at most {limit:.0f} s")
            outcome = (
                _run_phase(phase, _make_environment(options, phase, cache), limit) if limit > 5 else "no time left"
            )
            report["phases"][phase] = {"outcome": outcome, "seconds": round(time.monotonic() - begin, 1)}
            _say(f"{phase}: {outcome} after {report['phases'][phase]['seconds']} s")
            files.write_json(options.out / "gpu.json", report)


def _make_environment(options: argparse.Namespace, phase: str, cache: str) -> dict[str, str]:
    environment = {
        **os.environ,
        "JAX_COMPILATION_CACHE_DIR": f"{cache}/xla",
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "1",
        "TORCHINDUCTOR_CACHE_DIR": f"{cache}/inductor",
        "BT_CACHE": cache,
    }
    if HAS_GPU:
        flags = f"--xla_gpu_dump_autotune_results_to={options.out.resolve() / f'autotune_{phase}.txt'}"
        if options.autotuned is not None:
            flags += f" --xla_gpu_load_autotune_results_from={options.autotuned.resolve()}"
        environment["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {flags}".strip()
    return environment


def _run_phase(phase: str, environment: Mapping[str, str], limit_s: float) -> str:
    """Runs a phase in a process group of its own and kills all of it at the limit; returns what became of it."""
    command = [sys.executable, __file__, *sys.argv[1:], f"--phase={phase}"]
    process = subprocess.Popen(command, env=environment, start_new_session=True)
    try:
        status = process.wait(timeout=limit_s)
        return "done" if status == 0 else f"failed with status {status}"
    except subprocess.TimeoutExpired:
        return "stopped at its limit"
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _say(line: str) -> None:
    """Prints a line with the seconds since the start of the process."""
    print(f"[{time.monotonic() - START:6.1f}] {line}", flush=True)


def write_facts(options: argparse.Namespace) -> None:
    """Writes card, driver, versions and ceilings."""
    query = "name,driver_version,memory.total,clocks.max.sm,clocks.max.memory,power.limit"
    try:
        card = subprocess.run(
            ["nvidia-smi", f"--query-gpu={query}", "--format=csv"], capture_output=True, encoding="utf-8"
        ).stdout
    except FileNotFoundError:
        card = ""
    import jax

    from bt_jax.benchmark.measurements import make_turn
    from bt_jax.workdir import run_folder

    device = jax.devices()[0]
    ceilings = machine.prepare_ceilings(jax.numpy.dtype("bfloat16"))
    found = {
        "card": card.strip().splitlines(),
        "machine": machine.describe(),
        "versions": {"python": platform.python_version(), **run_folder.get_versions()},
        "runtime": device.client.platform_version,
        "memory_bytes": (device.memory_stats() or {}).get("bytes_limit"),
        "ceilings_per_s": {
            name: ceiling.amount / statistics.median(make_turn(ceiling)() for _ in range(options.repeats))
            for name, ceiling in ceilings.items()
        },
    }
    files.write_json(options.out / "facts.json", found)
    print(json.dumps(found, indent=1), flush=True)


def measure_step(options: argparse.Namespace) -> None:
    """Measures the training step as it is."""
    _measure_step(options, "step")


def measure_known_step(options: argparse.Namespace) -> None:
    """Measures the training step when the compiler knows that every segment trains."""
    _measure_step(options, "known")


def measure_taps(options: argparse.Namespace) -> None:
    """Measures the training step without cuDNN's depthwise kernels, but for the filter gradient."""
    from bt_jax.ops import depthwise

    depthwise.convolve_natively = make_taps(depthwise.convolve_natively)
    _measure_step(options, "taps")


def make_taps(native: Callable[..., Any]) -> Callable[..., Any]:
    """Returns a depthwise convolution that sums shifted products in float32, in a form that XLA may fuse.

    Args:
      native: `convolve_natively`, whose filter gradient it has.
    """
    import jax
    import jax.numpy as jnp

    def add_taps(x: Any, kernel: Any, stride: int) -> Any:
        rows, columns = ((x.shape[axis] - kernel.shape[0]) // stride + 1 for axis in (1, 2))
        total: Any = 0.0
        for i in range(kernel.shape[0]):
            for j in range(kernel.shape[1]):
                stop = i + stride * (rows - 1) + 1, j + stride * (columns - 1) + 1
                part = x[:, i : stop[0] : stride, j : stop[1] : stride]
                total += part.astype(jnp.float32) * kernel[i, j].astype(jnp.float32)
        return total.astype(x.dtype)

    def pad(x: Any, padding: Any, interior: int) -> Any:
        none = (0, 0, 0)
        return jax.lax.pad(x, jnp.zeros((), x.dtype), (none, *((*sides, interior) for sides in padding), none))

    @functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
    def convolve(x: Any, kernel: Any, stride: int, padding: Any) -> Any:
        return add_taps(pad(x, padding, 0), kernel, stride)

    def differentiate(stride: int, padding: Any, saved: tuple[Any, Any], slope: Any) -> tuple[Any, Any]:
        x, kernel = saved
        size = kernel.shape[0]
        sides = []
        for axis, (before, _) in enumerate(padding, start=1):
            low = size - 1 - before
            sides.append((low, x.shape[axis] - (slope.shape[axis] - 1) * stride - 1 - low + size - 1))
        input_gradient = add_taps(pad(slope, sides, stride - 1), kernel[::-1, ::-1], 1)
        _, transpose = jax.vjp(lambda kernel: native(x, kernel, stride=stride, padding=padding), kernel)
        return input_gradient, transpose(slope)[0]

    convolve.defvjp(
        lambda x, kernel, stride, padding: (convolve(x, kernel, stride, padding), (x, kernel)), differentiate
    )
    return lambda x, kernel, *, stride, padding: convolve(x, kernel, stride, padding)


def _measure_step(options: argparse.Namespace, name: str) -> None:
    import jax

    from bt_jax.benchmark import step_throughput
    from bt_jax.distributed import sharding
    from bt_jax.training import train_step

    workload = _make_workload(batch=options.batch, size=options.size)
    flags = os.environ.get("XLA_FLAGS")
    report: dict[str, Any] = {"batch": workload.batch, "size": workload.size, "flags": flags}

    def write(**found: Any) -> None:
        report.update(found)
        files.write_json(options.out / f"{name}.json", report)
        _say(f"{name}: " + ", ".join(f"{key} {value:.4g}" for key, value in found.items() if isinstance(value, float)))

    _say("imported")
    # As in `compile_training_steps`, so that `train` finds the program in the cache.
    step, state = step_throughput.make_training_step(workload)
    state = jax.device_put(state, sharding.get_replicated_sharding(step.mesh))
    labels = np.arange(workload.batch, dtype=np.int32) % step_throughput.CLASSES
    batch = jax.device_put({"image": workload.make_images(), "label": labels}, sharding.get_batch_sharding(step.mesh))
    arguments: tuple[Any, ...] = (batch, np.float32(1e-4), np.int32(0), np.int32(0))
    function = step.jit(0)
    if name == "known":

        class Known(train_step._Program):
            def _flag_trained(self, first_segment: Any) -> tuple[bool, ...]:
                return (True,) * len(self._names)

        function = jax.jit(Known(step, 0).train_step, donate_argnums=0)
    begin = time.perf_counter()
    lowered = function.lower(state, *arguments)
    write(lowering_s=time.perf_counter() - begin)
    begin = time.perf_counter()
    compiled = lowered.compile()
    write(compile_s=time.perf_counter() - begin)
    text = compiled.as_text()
    (options.out / f"{name}.hlo.gz").write_bytes(gzip.compress(text.encode()))
    targets = collections.Counter(re.findall('custom_call_target="([^"]*)"', text))
    write(conditionals=text.count(" conditional("), fusions=text.count(" fusion("), custom_calls=dict(targets))
    held: dict[str, Any] = {"state": state}

    def run(count: int) -> float:
        begin = time.perf_counter()
        for _ in range(count):
            held["state"], held["metrics"] = compiled(held["state"], *arguments)
        jax.block_until_ready(held)
        return time.perf_counter() - begin

    write(first_step_s=run(1))
    run(2)
    seconds = []
    for _ in range(options.repeats):
        seconds.append(run(options.steps) / options.steps)
        write(step_s=seconds, images_per_s=workload.batch / statistics.median(seconds))
    write(peak_memory_bytes=machine.read_peak_memory())
    traced = 5
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            run(traced)
        write(kernels=_count_kernels(pathlib.Path(folder), steps=traced))
    kernels = report["kernels"]
    _say(f"{kernels['count']:.0f} kernels a step take {1e3 * kernels['seconds']:.2f} ms")
    for row in kernels["kinds"][:20]:
        print(f"  {1e3 * row['seconds']:8.3f} ms {row['count']:7.0f}  {row['name'][:90]}", flush=True)


def measure_peers(options: argparse.Namespace) -> None:
    """Measures the training step of each peer with nothing beside it."""
    from bt_jax.benchmark import peer_process

    workload = _make_workload(batch=options.batch, size=options.size)
    peers = peer_process.PEERS_ON_GPU if HAS_GPU else peer_process.PEERS[:2]
    work = (f"clip_norm={workload.optimizer['clip_norm']}", f"average_decay={workload.average_decay}")
    report: dict[str, Any] = {"batch": options.batch, "size": options.size}
    for peer in peers:
        ready, missing = peer_process.start_peers(
            mode="train",
            model=workload.model,
            batch=options.batch,
            size=options.size,
            python=peer_process.find_peers_python(),
            options=("running_statistics", *work),
            peers=(peer,),
        )
        report[peer.name] = {"missing": missing}
        for process in ready.values():
            _say(f"{peer.name}: ready after {process.ready_s:.1f} s")
            seconds = [process.turn() for _ in range(options.repeats)]
            report[peer.name] = {
                "images_per_s": options.batch / statistics.median(seconds),
                "step_s": seconds,
                "ready_s": process.ready_s,
                "peak_memory_bytes": process.peak_memory_bytes,
                "version": process.version,
            }
            process.close()
        _say(f"{peer.name}: {report[peer.name]}")
        files.write_json(options.out / "peers.json", report)


def measure_inference(options: argparse.Namespace) -> None:
    """Measures the forward pass in turns with the peers."""
    _run_benchmark(options, "infer")


def measure_training(options: argparse.Namespace) -> None:
    """Measures the training step in turns with the peers."""
    _run_benchmark(options, "train")


def _run_benchmark(options: argparse.Namespace, mode: str) -> None:
    subprocess.run(
        [
            *(sys.executable, "-m", "bt_jax.benchmark", f"--config={CONFIG}", f"--mode={mode}", "--peers"),
            *(f"--batch={options.batch}", f"--repeats={options.repeats}", f"--config.preprocess.size={options.size}"),
            f"--json={options.out.resolve() / f'{mode}.json'}",
        ],
        cwd=ROOT,
        check=True,
    )


def run_to_report(options: argparse.Namespace) -> None:
    """Runs cross-validations on real images; `run.json` in their folders says where the time went."""
    runs = []
    shared = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"} if options.seeds > 1 else {}
    for seed in range(options.seeds):
        log = options.out / f"run_{seed}.log"
        with log.open("wb") as file:
            run = subprocess.Popen(
                [
                    *(sys.executable, "-m", "bt_jax.main", f"--config={CONFIG}", "--config.data.fold=-1"),
                    *(f"--config.data.dir={options.data.resolve()}", f"--config.seed={seed}"),
                    *(f"--workdir={options.out.resolve() / f'run_{seed}'}", *options.settings.split()),
                ],
                cwd=ROOT,
                stdout=file,
                stderr=subprocess.STDOUT,
                env={**os.environ, "PYTHONUNBUFFERED": "1", **shared},
            )
        runs.append(run)
        while seed == 0 and run.poll() is None and b"first step" not in log.read_bytes():
            time.sleep(0.5)
    statuses = [run.wait() for run in runs]
    if any(statuses):
        raise SystemExit("a run failed: see its log")


def _count_kernels(folder: pathlib.Path, *, steps: int) -> dict[str, Any]:
    """Sums the time of the kernels of a trace by name, for one step."""
    from jax.profiler import ProfileData

    seconds: dict[str, float] = collections.defaultdict(float)
    counts: dict[str, float] = collections.defaultdict(float)
    (path,) = folder.rglob("*.xplane.pb")
    lines = {}
    for plane in ProfileData.from_file(str(path)).planes:
        for line in plane.lines:
            events = list(line.events)
            lines[f"{plane.name} / {line.name}"] = len(events)
            if plane.name.startswith("/device:GPU") and line.name.startswith("Stream"):
                for event in events:
                    seconds[event.name] += event.duration_ns / 1e9 / steps
                    counts[event.name] += 1 / steps
    longest = sorted(seconds, key=lambda name: -seconds[name])[:150]
    kinds = [{"name": name, "seconds": seconds[name], "count": counts[name]} for name in longest]
    return {"lines": lines, "seconds": sum(seconds.values()), "count": sum(counts.values()), "kinds": kinds}


def compare_devices(options: argparse.Namespace) -> None:
    """Compares loss, logits and gradients of the network with those on the CPU."""
    import jax
    import jax.numpy as jnp
    import optax

    from bt_jax.models.normalise import LITE

    count = 8
    workload = _make_workload(batch=count, size=options.size)
    images = np.random.default_rng(1).random((count, options.size, options.size), np.float32)
    labels = np.arange(count) % 4
    network, params, batch_stats = workload.create_network()

    def compute(params: Any, batch_stats: Any, *, dtype: Any) -> Any:
        def compute_loss(params: Any) -> Any:
            logits, _ = network.apply(params, batch_stats, LITE(jnp.asarray(images), dtype=dtype))
            return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean(), logits

        (loss, logits), gradients = jax.value_and_grad(compute_loss, has_aux=True)(params)
        return {"loss": loss, "logits": logits, "gradients": gradients}

    cpu, device = jax.devices("cpu")[0], jax.devices()[0]
    batch_stats = _estimate_statistics(workload, params, batch_stats, LITE(jnp.asarray(images)), cpu)
    results = {}
    for name, place, dtype in (
        ("reference", cpu, jnp.float32),
        ("float32", device, jnp.float32),
        ("bfloat16", device, jnp.bfloat16),
    ):
        with jax.default_device(place), jax.default_matmul_precision("highest"):
            run = jax.jit(functools.partial(compute, dtype=dtype))
            results[name] = jax.device_get(run(*jax.device_put((params, batch_stats), place)))
    report: dict[str, Any] = {"device": device.device_kind, "images": count}
    right = results.pop("reference")
    for name, found in results.items():
        errors: Mapping[str, float] = {
            part: float(
                np.sqrt(sum(np.square(np.asarray(f, np.float64) - r).sum() for f, r in zip(*both, strict=True)))
                / np.sqrt(sum(np.square(np.asarray(r, np.float64)).sum() for r in both[1]))
            )
            for part in right
            for both in [[jax.tree.leaves(tree[part]) for tree in (found, right)]]
        }
        report[name] = errors
        print(name, errors, flush=True)
    files.write_json(options.out / "correct.json", report)


def _estimate_statistics(workload: Any, params: Any, batch_stats: Any, images: Any, device: Any) -> Any:
    """Returns the running statistics of a network that knows these images; the first ones, 0 and 1, fade the signal."""
    import jax

    options = {**workload.options, "batch_statistics": True, "dropout_rate": 0.0}
    network, _, _ = dataclasses.replace(workload, options=options).create_network()
    with jax.default_device(device):
        run = jax.jit(lambda *weights: network.apply(*weights, images, trained=True, dropout_key=jax.random.key(0))[1])
        moved = jax.device_get(run(*jax.device_put((params, batch_stats), device)))
    momentum = 0.99
    return jax.tree.map(lambda new, old: (new - momentum * np.asarray(old)) / (1 - momentum), moved, batch_stats)


def _make_workload(*, batch: int, size: int) -> Any:
    from bt_jax.benchmark.step_throughput import Workload
    from bt_jax.configs import effnet
    from bt_jax.defaults import get_model_options

    config = effnet.get_config()
    return Workload(
        model=config.model.name,
        options=get_model_options({**config.model}),
        size=size,
        batch=batch,
        dtype=config.train.dtype,
        optimizer=config.optimizer.to_dict(),
        label_smoothing=config.loss.label_smoothing,
        average_decay=config.train.average_decay,
    )


@dataclasses.dataclass(frozen=True)
class Phase:
    """A phase and the most seconds that it may take."""

    run: Callable[[argparse.Namespace], None]
    limit_s: float


PHASES = {
    "facts": Phase(write_facts, 60),
    "step": Phase(measure_step, 260),
    "peers": Phase(measure_peers, 240),
    "taps": Phase(measure_taps, 260),
    "known": Phase(measure_known_step, 330),
    "infer": Phase(measure_inference, 240),
    "correct": Phase(compare_devices, 240),
    "train": Phase(measure_training, 300),
    "run": Phase(run_to_report, 540),
}

if __name__ == "__main__":
    main()
