"""The measurements of the benchmark: each returns the fields of its JSON report for a workload."""

import contextlib
import datetime
import functools
import pathlib
import statistics
import tempfile
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax

from bt_jax.benchmark import input_throughput, machine, onnx_engines, peer_process, step_throughput
from bt_jax.benchmark.peers import turns
from bt_jax.benchmark.step_throughput import CompiledProgram, Workload
from bt_jax.common.errors import UsageError
from bt_jax.common.spread import Spread
from bt_jax.data import sources
from bt_jax.data.augment.settings import Augmentation
from bt_jax.data.preprocess import Preprocessing
from bt_jax.data.sampler import Sampler
from bt_jax.distributed import sharding
from bt_jax.training import stages, train_step
from bt_jax.workdir import run_folder

SCHEMA = 1
OURS = "bt_jax"
_WARM_UP = 2
_CEILING = "ceiling of "

say = functools.partial(print, flush=True)


def measure_steps(workload: Workload, *, mode: str, peers_python: str | None, repeats: int) -> dict[str, Any]:
    """Measures full fine-tuning steps (`train`) or forward passes (`infer`), and the peers of an interpreter.

    Raises:
      UsageError: peers are requested, and JAX runs on neither a CPU nor one GPU.
    """
    platform = jax.default_backend()
    if peers_python and (platform not in ("cpu", "gpu") or jax.device_count() > 1):
        raise UsageError(
            f"--peers needs JAX on a CPU or one GPU, and it runs on {jax.device_count()} {platform}: "
            "set JAX_PLATFORMS=cpu"
        )
    say(f"compiling {workload.model}, {workload.size}x{workload.size} pixels, batch {workload.batch}")
    program = (
        step_throughput.compile_forward(workload)
        if mode == "infer"
        else step_throughput.compile_training_steps(workload, program_segments=[0])[0]
    )
    peak = _warm_up([program])
    with contextlib.ExitStack() as stack:
        peers: dict[str, peer_process.PeerProcess] = {}
        missing: dict[str, str] = {}
        engines = onnx_engines.Engines(None, {}, {})
        if peers_python and mode == "infer" and platform == "cpu":
            engines = onnx_engines.prepare(workload, pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory())))
        if peers_python:
            say("starting the peers, which may take minutes")
            peers, missing = peer_process.start_peers(
                mode=mode,
                model=workload.model,
                batch=workload.batch,
                size=workload.size,
                python=peers_python,
                options=_list_peer_options(workload, mode=mode),
                onnx_file=engines.file,
                peers=peer_process.PEERS if platform == "cpu" else peer_process.PEERS_ON_GPU,
            )
        for peer in peers.values():
            stack.callback(peer.close)
        seconds, ceiling, failed = _measure_with_ceilings(
            {
                OURS: make_turn(program),
                **{name: peer.turn for name, peer in peers.items()},
                **{name: engine.turn for name, engine in engines.ready.items()},
            },
            workload,
            repeats=repeats,
        )
    ours = statistics.median(seconds[OURS])
    return {
        **_describe_measurement(workload, repeats=repeats),
        "images_per_s": workload.batch / ours,
        "step_s": _describe_spread(seconds[OURS]),
        "compile_s": program.compile_s,
        **_compute_costs(program.flops, program.bytes_accessed, workload.batch, seconds=ours),
        "ceiling": ceiling,
        "peak_memory_bytes": {"program": program.memory_bytes, "process": peak},
        "peers": {
            name: {
                "images_per_s": workload.batch / statistics.median(seconds[name]),
                "ratio": statistics.median(seconds[name]) / ours,
                "step_s": _describe_spread(seconds[name]),
                "ready_s": peer.ready_s,
                "peak_memory_bytes": peer.peak_memory_bytes,
                "version": peer.version,
            }
            for name, peer in peers.items()
            if name in seconds
        },
        "missing_peers": missing | failed,
        "engines": {
            name: {
                "images_per_s": workload.batch / statistics.median(seconds[name]),
                "ratio": statistics.median(seconds[engine.peer]) / statistics.median(seconds[name])
                if engine.peer in seconds
                else None,
                "step_s": _describe_spread(seconds[name]),
                "version": engine.version,
            }
            for name, engine in engines.ready.items()
        },
        "missing_engines": engines.missing,
    }


def measure_stages(workload: Workload, *, plan: Mapping[str, Any], images: int, repeats: int) -> dict[str, Any]:
    """Measures a step of every program of a plan, and from these computes the duration of the plan.

    Each program trains all segments that it can. Stages that share a program take the same time for a step, however
    many segments they freeze. All stages are assumed to train on images; training runs faster in stages that use
    cached features. Evaluation, checkpoints and early stopping are not included.

    Args:
      workload: the step.
      plan: arguments of `stages.make_plan`.
      images: in the training set.
      repeats: measurements of each program.
    """
    names = workload.create_network()[0].segment_names
    order = Sampler(records=images, batch_size=workload.batch, seed=0)
    made = stages.make_plan(names, steps_per_epoch=order.steps_per_epoch, **plan)
    segments = list(dict.fromkeys(stage.program_segment for stage in made))
    say(f"compiling {len(segments)} programs of {workload.model}, batch {workload.batch}")
    programs = step_throughput.compile_training_steps(workload, segments)
    peak = _warm_up(list(programs.values()))
    seconds, ceiling, _ = _measure_with_ceilings(
        {names[segment]: make_turn(program) for segment, program in programs.items()},
        workload,
        repeats=repeats,
    )
    step_s = {segment: statistics.median(seconds[names[segment]]) for segment in segments}
    total = sum(stage.steps * step_s[stage.program_segment] for stage in made)
    count = made[-1].last_step

    def mean(values: Mapping[int, float | None]) -> float | None:
        """Returns the mean over the steps of the plan."""
        known = [(stage.steps, values[stage.program_segment]) for stage in made]
        return None if any(v is None for _, v in known) else sum(n * v for n, v in known if v is not None) / count

    return {
        **_describe_measurement(workload, repeats=repeats),
        "images_per_s": count * workload.batch / total,
        "compile_s": sum(program.compile_s for program in programs.values()),
        **_compute_costs(
            mean({segment: program.flops for segment, program in programs.items()}),
            mean({segment: program.bytes_accessed for segment, program in programs.items()}),
            workload.batch,
            seconds=total / count,
        ),
        "ceiling": ceiling,
        "peak_memory_bytes": {
            "program": max(program.memory_bytes or 0 for program in programs.values()) or None,
            "process": peak,
        },
        "peers": {},
        "images": images,
        "plan_s": total,
        "programs": [
            {
                "lowest_segment": names[segment],
                "images_per_s": workload.batch / step_s[segment],
                "step_s": _describe_spread(seconds[names[segment]]),
                "compile_s": program.compile_s,
            }
            for segment, program in programs.items()
        ],
        "stages": [
            {
                "number": stage.number,
                "first_segment": names[stage.first_segment],
                "program": names[stage.program_segment],
                "steps": stage.steps,
                "seconds": stage.steps * step_s[stage.program_segment],
            }
            for stage in made
        ],
    }


def measure_input(
    workload: Workload,
    *,
    data: Mapping[str, Any],
    preprocess: Mapping[str, Any],
    augment: Mapping[str, Any],
    seed: int,
    repeats: int,
) -> dict[str, Any]:
    """Measures the input pipeline alone: from files to preprocessed images, and from these to batches on the devices.

    Args:
      workload: only its image size and its batch size count.
      data: fields of that section of the configuration.
      preprocess: fields of that section of the configuration.
      augment: fields of that section of the configuration.
      seed: of phantoms.
      repeats: measurements of each.
    """
    source = sources.open_source(
        data["source"], directory=data["dir"], phantoms_per_class=tuple(data["phantoms_per_class"]), seed=seed
    )
    for warning in source.warnings:
        say(f"warning: {warning}")
    preprocessing = Preprocessing(**{**preprocess, "size": workload.size})
    images, decode_images_per_s = input_throughput.measure_decoding(
        source,
        preprocessing=preprocessing,
        max_unreadable=data["max_unreadable"],
        warn=lambda line: say(f"warning: {line}"),
    )
    settings = {"workers": data["workers"], "threads": data["threads"]}
    # The pipeline is measured alone: it would fill its buffer while something else is measured.
    with input_throughput.start_batches(
        images,
        batch=workload.batch,
        sharding=sharding.get_batch_sharding(sharding.make_mesh()),
        **settings,
    ) as turn:
        turn()
        flow, _ = peer_process.measure_in_turns({OURS: turn}, repeats=repeats)
    peak = machine.read_peak_memory()
    operations, ceiling, _ = _measure_with_ceilings(
        input_throughput.make_augmentation_turns(images.images, Augmentation(**augment)), workload, repeats=repeats
    )
    batch_s = [seconds / input_throughput.BATCHES_PER_TURN for seconds in flow[OURS]]
    return {
        **_describe_measurement(workload, repeats=repeats),
        "images_per_s": workload.batch / statistics.median(batch_s),
        "step_s": _describe_spread(batch_s),
        "compile_s": None,
        **_compute_costs(None, None, workload.batch, seconds=statistics.median(batch_s)),
        "ceiling": ceiling,
        "peak_memory_bytes": {"program": None, "process": peak},
        "peers": {},
        "data": source.description,
        "synthetic": source.synthetic,
        "images": len(images),
        **settings,
        "decode_images_per_s": decode_images_per_s,
        "augmentation_ms": {name: 1000 * statistics.median(seconds) for name, seconds in operations.items()},
    }


def _warm_up(programs: Sequence[CompiledProgram]) -> int:
    """Runs each program a few times; returns the peak memory of the process in bytes."""
    for program in programs:
        for _ in range(_WARM_UP):
            program.run()
        program.wait()
    return machine.read_peak_memory()


def _measure_with_ceilings(
    measured: Mapping[str, Callable[[], float]], workload: Workload, *, repeats: int
) -> tuple[dict[str, list[float]], dict[str, float], dict[str, str]]:
    """Measures functions in alternation with the machine's ceilings; returns seconds, ceilings and failures."""
    ceilings = machine.prepare_ceilings(train_step.resolve_dtype(workload.dtype))
    seconds, failed = peer_process.measure_in_turns(
        {**measured, **{_CEILING + name: make_turn(ceiling) for name, ceiling in ceilings.items()}},
        repeats=repeats,
        pause_s=peer_process.PAUSE_S,
    )
    rates = {
        name: ceiling.amount / statistics.median(seconds.pop(_CEILING + name)) / 1e9
        for name, ceiling in ceilings.items()
    }
    return seconds, {"gflops_per_s": rates["flops"], "gb_per_s": rates["bytes"]}, failed


def make_turn(program: CompiledProgram | machine.Ceiling) -> Callable[[], float]:
    """Makes a function that measures a turn of a program and returns the seconds of a run."""
    count = turns.STEPS_ON_CPU if jax.default_backend() == "cpu" else turns.STEPS_ON_ACCELERATOR
    return turns.make_turn(turns.Step(program.run, program.wait, count))


def _list_peer_options(workload: Workload, *, mode: str) -> tuple[str, ...]:
    """Returns the options that make the peers do the same work as ours.

    On a CPU, the peers neither clip the gradient nor average the weights, which takes little of a step there.
    """
    if mode != "train":
        return ()
    options = [] if workload.batch_statistics else ["running_statistics"]
    if jax.default_backend() == "gpu":
        options.append(f"clip_norm={workload.optimizer['clip_norm']}")
        options.append(f"average_decay={workload.average_decay}")
    return tuple(options)


def _describe_measurement(workload: Workload, *, repeats: int) -> dict[str, Any]:
    """Returns the fields that describe a measurement: workload, machine, versions and date."""
    return {
        "model": workload.model,
        "batch": workload.batch,
        "size": workload.size,
        "batch_statistics": workload.batch_statistics,
        "dtype": str(train_step.resolve_dtype(workload.dtype)),
        "repeats": repeats,
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "machine": machine.describe(),
        "versions": run_folder.get_versions(),
    }


def _compute_costs(flops: float | None, bytes_accessed: float | None, batch: int, *, seconds: float) -> dict[str, Any]:
    """Returns the operations and bytes of an image as the compiler counts them, and the rates achieved."""
    return {
        "flops_per_image": None if flops is None else flops / batch,
        "bytes_per_image": None if bytes_accessed is None else bytes_accessed / batch,
        "achieved": {
            "gflops_per_s": None if flops is None else flops / seconds / 1e9,
            "gb_per_s": None if bytes_accessed is None else bytes_accessed / seconds / 1e9,
        },
    }


def _describe_spread(seconds: Sequence[float]) -> dict[str, float]:
    spread = Spread.from_values(seconds)
    return {"median": spread.median, "min": spread.low, "max": spread.high}
