"""Formats the results of the benchmark: one for the terminal, and many as a Markdown table."""

import json
import pathlib
from collections.abc import Mapping
from typing import Any

from bt_jax.common.errors import UsageError

_MIB = 2**20


def format_result(result: Mapping[str, Any]) -> str:
    """Formats a result for the terminal: a table of rates, then the costs behind them."""
    lines = [
        "",
        f"{result['mode']}, {result['config']}: {result['model']} at {result['size']}x{result['size']} pixels, batch "
        f"{result['batch']}, {result['dtype']}, median of {result['repeats']}",
        *(
            ["BatchNorm trains on running statistics, also in the peers"]
            if _name_mode(result) != result["mode"]
            else []
        ),
        "",
    ]
    if result["mode"] == "stages":
        lines += _format_stages(result)
    else:
        lines += _format_rates(result)
    lines += ["", *_format_costs(result)]
    if result.get("engines"):
        lines.append("an engine's ours/theirs is this package with it over the engine alone; a peer's is JAX over it")
    for kind in ("missing_engines", "missing_peers"):
        lines += [f"{name}: {reason}" for name, reason in result.get(kind, {}).items()]
    return "\n".join(lines)


def format_markdown(folder: pathlib.Path) -> str:
    """Formats the results in a folder as a Markdown table, oldest first. Other JSON files are ignored.

    Raises:
      UsageError: the folder has no results, or a file is not JSON.
    """
    results = []
    for path in sorted(folder.glob("*.json")):
        try:
            content = json.loads(path.read_bytes())
        except ValueError as error:
            raise UsageError(f"{path} is not JSON: {error}") from error
        if isinstance(content, dict) and {"mode", "model", "images_per_s", "machine"} <= content.keys():
            results.append(content)
    if not results:
        raise UsageError(f"{folder} contains no results of the benchmark: make some with --json={folder}/NAME.json")
    results.sort(key=lambda result: str(result["date"]))
    rows = [
        "| mode | model | batch | images/s | ratio to peers | peak memory, GB | share of the ceiling | machine, date |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for result in results:
        ratios = ", ".join(f"{peer['ratio']:.2f} {name}" for name, peer in result["peers"].items())
        for name, engine in result.get("engines", {}).items():
            ratios += f"; {name}: {_format_rate_value(engine['images_per_s'])} images/s"
            ratios += f", {engine['ratio']:.2f} of it alone" if engine["ratio"] else ""
        machine = result["machine"]
        where = f"{machine['processor']}, {machine['cores']} cores"
        if machine["device"] != "cpu":
            where = f"{machine['devices']} x {machine['device']}"
        rows.append(
            f"| {_name_mode(result)} | {result['model']}, {result['size']}x{result['size']}, {result['dtype']} "
            f"| {result['batch']} | {_format_rate_value(result['images_per_s'])} | {ratios} "
            f"| {_format_peaks(result)} | {_format_ceiling_shares(result)} "
            f"| {where}, {str(result['date'])[:10]} |"
        )
    return "\n".join(rows)


def format_topology_result(result: Mapping[str, Any]) -> str:
    """Formats the result of `topology.compile_workload` for the terminal."""
    memory, images = result["memory_per_chip"], result["batch_per_chip"]
    parts = ", ".join(f"{name} {memory[name] / 1e9:.2f}" for name in ("arguments", "temporaries", "program"))
    of = f" of {memory['usable'] / 1e9:.2f} GB usable" if memory["usable"] else ""
    lines = [
        f"compiled for {result['topology']} in {result['compile_s']:.0f} s (nothing was executed)",
        f"chips: {result['chips']}, with {images} images per step each, {result['batch']} in total",
        f"memory per chip: {memory['needed'] / 1e9:.2f} GB{of} ({parts} GB)",
        f"per step and chip: {result['flops_per_step']:.3g} flops, {result['bytes_per_step']:.3g} bytes "
        f"accessed, {result['main_memory_bytes_per_step']:.3g} of them in the main memory",
        f"per image: {result['flops_per_image']:.3g} flops, {result['bytes_per_image']:.3g} bytes",
    ]
    lines += [
        f"{kind}: {found['count']} per step, {found['bytes'] / 1e6:.2f} MB"
        for kind, found in result["collectives"].items()
        if found["count"]
    ]
    if bound := result["roofline"]:
        lines += [
            f"roofline: {bound['images_per_s_per_chip_main_memory']:.0f} images/s per chip, bound by "
            f"{bound['bound_by']} (per step, arithmetic takes {bound['arithmetic_s'] * 1e3:.1f} ms and the main memory "
            f"{bound['main_memory_s'] * 1e3:.1f} ms; communication is not included)",
            f"if all bytes accessed were in the main memory: {bound['images_per_s_per_chip']:.0f} images/s per chip "
            f"({bound['bytes_accessed_s'] * 1e3:.1f} ms per step)",
        ]
    else:
        lines.append(f"no bound on the speed: the peak performance of {result['kind']} is unknown")
    lines += [
        f"on {row['chips']} chips: {row['images_per_s_accessed']:,.0f} to {row['images_per_s']:,.0f} images/s, "
        f"{row['all_reduce_s'] * 1e3:.2f} ms per step to reduce the gradients"
        for row in result["scaling"] or []
    ]
    largest = result["largest_batch_per_chip"] or {}
    for how in ("compiled", "extrapolated"):
        if largest.get(how):
            lines.append(f"largest batch per chip: {largest[how]} ({how})")
            break
    return "\n".join(lines)


def _name_mode(result: Mapping[str, Any]) -> str:
    fixed = result["mode"] == "train" and not result.get("batch_statistics", True)
    return "train, running statistics" if fixed else str(result["mode"])


def _format_rates(result: Mapping[str, Any]) -> list[str]:
    step = result["step_s"]
    lines = [
        f"{'':<22} {'images/s':>9} {'s/batch':>10} {'min':>8} {'max':>8} {'ours/theirs':>12} {'peak GB':>8}",
        _format_rate("bt_jax", result["images_per_s"], step, None, result["peak_memory_bytes"]["process"]),
    ]
    return lines + [
        _format_rate(name, row["images_per_s"], row["step_s"], row["ratio"], row.get("peak_memory_bytes"))
        for name, row in {**result.get("engines", {}), **result["peers"]}.items()
    ]


def _format_rate(
    name: str, images_per_s: float, step: Mapping[str, float], ratio: float | None, peak: int | None
) -> str:
    compared = "" if ratio is None else f"{ratio:.2f}"
    memory = "" if peak is None else f"{peak / 1e9:.1f}"
    return (
        f"{name:<22} {_format_rate_value(images_per_s):>9} {step['median']:>10.3f} {step['min']:>8.3f} "
        f"{step['max']:>8.3f} {compared:>12} {memory:>8}"
    ).rstrip()


def _format_stages(result: Mapping[str, Any]) -> list[str]:
    lines = [
        f"{'program from':<14} {'images/s':>9} {'s/step':>9} {'compile s':>10} {'stages':>8} {'steps':>7} {'s':>7}"
    ]
    for program in result["programs"]:
        own = [stage for stage in result["stages"] if stage["program"] == program["lowest_segment"]]
        numbers = sorted(stage["number"] for stage in own)
        covered = f"{numbers[0]}-{numbers[-1]}" if len(numbers) > 1 else str(numbers[0])
        steps, seconds = sum(stage["steps"] for stage in own), sum(stage["seconds"] for stage in own)
        lines.append(
            f"{program['lowest_segment']:<14} {_format_rate_value(program['images_per_s']):>9} "
            f"{program['step_s']['median']:>9.3f} {program['compile_s']:>10.1f} {covered:>8} {steps:>7} {seconds:>7.0f}"
        )
    minutes, rest = divmod(round(result["plan_s"]), 60)
    return [
        *lines,
        "",
        f"training plan of {len(result['stages'])} stages on {result['images']} images: {minutes} min {rest} s "
        f"of steps ({_format_rate_value(result['images_per_s'])} images/s)",
        "The time of a step depends on its program alone. Stages that share a program take the same time per step, "
        "however many segments they freeze.",
        "Stages that train on cached features (train.cached_views) are faster than this.",
        "Not included: evaluation, checkpoints, compilation, early stopping.",
    ]


def _format_costs(result: Mapping[str, Any]) -> list[str]:
    """Formats compilation, memory, operations and ceilings; for the pipeline, its parts."""
    lines = []
    ceiling, achieved, memory = result["ceiling"], result["achieved"], result["peak_memory_bytes"]
    if result["mode"] == "input":
        lines += [
            f"{result['images']} images of {result['data']}, {'drawn' if result['synthetic'] else 'decoded'} "
            f"and preprocessed: {_format_rate_value(result['decode_images_per_s'])} images/s",
            "augmentation, ms per image on the device, each operation alone:",
            *(f"  {name:<12} {value:>6.2f}" for name, value in result["augmentation_ms"].items()),
        ]
    else:
        lines.append(f"compiled in {result['compile_s']:.1f} s")
    if result["flops_per_image"] is not None:
        costs = [f"{result['flops_per_image'] / 1e9:.3g} GFLOP"]
        rates = [f"{achieved['gflops_per_s']:.3g} GFLOP/s"]
        if result["bytes_per_image"] is not None:
            costs.append(f"{result['bytes_per_image'] / 1e6:.3g} MB accessed")
            rates.append(f"{achieved['gb_per_s']:.3g} GB/s")
        lines.append(f"per image: {', '.join(costs)}; achieved {', '.join(rates)}")
    lines.append(
        f"ceiling of the machine: {ceiling['gflops_per_s']:.3g} GFLOP/s in a matrix product, {ceiling['gb_per_s']:.3g} "
        f"GB/s in a copy"
    )
    program = "" if memory["program"] is None else f"program {memory['program'] / _MIB:.0f} MiB, "
    lines.append(f"memory: {program}peak of the process {memory['process'] / _MIB:.0f} MiB")
    return lines


def _format_peaks(result: Mapping[str, Any]) -> str:
    """Formats the peak memory of the processes. Input is measured in a process that holds the images besides."""
    if result["mode"] == "input" or "peak_memory_bytes" not in result:
        return ""
    peaks = {name: peer.get("peak_memory_bytes") for name, peer in result["peers"].items()}
    theirs = [f"{peak / 1e9:.1f} {name}" for name, peak in peaks.items() if peak]
    return ", ".join([f"**{result['peak_memory_bytes']['process'] / 1e9:.1f}**", *theirs])


def _format_ceiling_shares(result: Mapping[str, Any]) -> str:
    """Formats the achieved rates as percentages of the machine's ceilings."""
    shares = [
        f"{100 * achieved / result['ceiling'][key]:.0f} % {name}"
        for key, name in (("gflops_per_s", "FLOP/s"), ("gb_per_s", "bytes/s"))
        if (achieved := result["achieved"][key]) is not None
    ]
    return ", ".join(shares)


def _format_rate_value(value: float) -> str:
    return f"{value:.1f}" if value < 1000 else f"{value:,.0f}"
