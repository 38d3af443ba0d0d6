"""Compares each layer written for the CPU with its plain form, and networks by pairs of images with whole batches.

    python benchmarks/cpu_layers.py > benchmarks/cpu_layers.md

Both forms of a row run in alternation in one process. Each number is the median. Shapes are those of EfficientNet-B1 at
240x240 pixels.
"""

import argparse
import functools
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bt_jax.common import cli
from bt_jax.inference.forward import make_forward
from bt_jax.models import layers, registry
from bt_jax.models.normalise import LITE
from bt_jax.ops import activation, batch_norm, convolution, depthwise, pointwise

Form = Callable[..., jax.Array]
# Name of the row, plain form, form for the CPU, shapes of the inputs.
Row = tuple[str, Form, Form, list[tuple[int, ...]]]


def make_depthwise_row(side: int, channels: int, size: int, stride: int) -> Row:
    """Compares a depthwise convolution."""
    pads = layers.compute_same_padding(side, size, stride)
    options = {"stride": stride, "padding": (pads, pads)}
    return (
        f"depthwise {size}x{size}, stride {stride}, {side}x{side}x{channels}",
        functools.partial(depthwise.convolve_natively, **options),
        functools.partial(depthwise.shift_and_add, **options),
        [(side, side, channels), (size, size, channels)],
    )


def make_norm_row(side: int, channels: int) -> Row:
    """Compares BatchNorm on batch statistics with Swish."""

    def ours(x: jax.Array, scale: jax.Array, bias: jax.Array) -> jax.Array:
        zeros, one = jnp.zeros_like(scale), jnp.float32(1)
        norm = batch_norm.Norm(scale, bias, zeros, zeros, one)
        return batch_norm.norm_activation_on_cpu(x, norm, 1e-3, jax.nn.silu)[0]

    return (
        f"BatchNorm and Swish, {side}x{side}x{channels}",
        _apply_plain_norm,
        ours,
        [(side, side, channels), (channels,), (channels,)],
    )


def make_folded_norm_row(side: int, channels: int) -> Row:
    """Compares Swish after a BatchNorm on running statistics, which is folded into the kernel before it."""
    return (
        f"folded BatchNorm and Swish, {side}x{side}x{channels}",
        lambda x, shift: jax.nn.silu(x + shift),
        lambda x, shift: activation.shift_activation_on_cpu(x, shift, jax.nn.silu),
        [(side, side, channels), (channels,)],
    )


def make_product_norm_row(side: int, channels: int, wider: int) -> Row:
    """Compares a 1x1 convolution with BatchNorm and Swish."""

    def ours(x: jax.Array, kernel: jax.Array, scale: jax.Array, bias: jax.Array) -> jax.Array:
        zeros, one = jnp.zeros_like(scale), jnp.float32(1)
        norm = batch_norm.Norm(scale, bias, zeros, zeros, one)
        return batch_norm.pointwise_norm_activation_on_cpu(x, kernel, norm, 1e-3, jax.nn.silu)[0]

    return (
        f"1x1, BatchNorm and Swish, {side}x{side}, {channels} to {wider}",
        lambda x, kernel, scale, bias: _apply_plain_norm(x @ kernel, scale, bias),
        ours,
        [(side, side, channels), (channels, wider), (wider,), (wider,)],
    )


def make_gate_row(side: int, channels: int, narrower: int) -> Row:
    """Compares the squeeze-and-excite gate and the 1x1 convolution after it."""
    return (
        f"gate and 1x1, {side}x{side}, {channels} to {narrower}",
        lambda x, gate, kernel: (x * gate[:, None, None]) @ kernel,
        pointwise.gated_pointwise,
        [(side, side, channels), (0, channels), (channels, narrower)],
    )


def make_stem_row() -> Row:
    """Compares the first convolution, whose input has no gradient."""
    options = {"stride": 2, "padding": ((0, 1), (0, 1))}
    image = jax.lax.stop_gradient
    return (
        "stem 3x3, stride 2, 240x240x3 to 32",
        lambda x, kernel: convolution.convolve_natively(image(x), kernel, **options),
        lambda x, kernel: convolution.convolution(image(x), kernel, **options),
        [(240, 240, 3), (3, 3, 3, 32)],
    )


def _apply_plain_norm(x: jax.Array, scale: jax.Array, bias: jax.Array) -> jax.Array:
    axes = (0, 1, 2)
    mean = x.mean(axes)
    factor = scale * jax.lax.rsqrt(jnp.square(x).mean(axes) - jnp.square(mean) + 1e-3)
    return jax.nn.silu(x * factor + (bias - mean * factor))


def compile_pass(form: Form, inputs: list[jax.Array]) -> Callable[[], Any]:
    """Compiles a forward and backward pass."""

    @jax.jit
    def run(inputs: list[jax.Array], upstream: jax.Array) -> Any:
        outputs, pull_back = jax.vjp(form, *inputs)
        return outputs, pull_back(upstream)

    upstream = jnp.ones(jax.eval_shape(form, *inputs).shape)
    return make_run(run.lower(inputs, upstream).compile(), inputs, upstream)


def make_run(program: Callable[..., Any], *inputs: Any) -> Callable[[], Any]:
    """Returns a function that runs a program on these inputs and waits for it."""
    return lambda: jax.block_until_ready(program(*inputs))


def measure_in_turns(forms: Sequence[Callable[[], Any]], repeats: int) -> list[float]:
    """Returns the median milliseconds of each form. The first turn is left out."""
    seconds: list[list[float]] = [[] for _ in forms]
    for _ in range(repeats + 1):
        for form, into in zip(forms, seconds, strict=True):
            begin = time.perf_counter()
            form()
            into.append(time.perf_counter() - begin)
    return [1000 * statistics.median(into[1:]) for into in seconds]


def print_forwards(batch: int, repeats: int) -> None:
    """Prints a Markdown table of whole networks in inference, whole batches against pairs of images."""
    print(
        f"\n| forward pass of {batch} images | whole batch, ms | by pairs, ms | ratio | memory for maps, MB |\n"
        "|---|---|---|---|---|"
    )
    for name in ("efficientnet_b1", "efficientnet_lite1"):
        network, params, batch_stats = registry.create(name, classes=4)
        images = np.zeros((batch, network.size, network.size), np.uint8)
        programs = [
            jax.jit(make_forward(network, normalisation=LITE, dtype=jnp.dtype("float32"), by_pairs=by_pairs))
            .lower(params, batch_stats, images)
            .compile()
            for by_pairs in (False, True)
        ]
        inputs = params, batch_stats, images
        before, after = measure_in_turns([make_run(program, *inputs) for program in programs], repeats)
        held = " to ".join(f"{p.memory_analysis().temp_size_in_bytes / 1e6:.0f}" for p in programs)
        print(f"| {name} | {before:.1f} | {after:.1f} | {before / after:.1f} | {held} |", flush=True)


def main() -> None:
    """Prints Markdown tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=16, help="images (16)")
    parser.add_argument("--repeats", type=int, default=9, help="measurements of each form (9)")
    arguments = parser.parse_args()
    cli.prepare_to_compute()
    rows = [
        make_depthwise_row(120, 32, 3, 1),
        make_depthwise_row(120, 96, 3, 2),
        make_depthwise_row(60, 144, 3, 1),
        make_depthwise_row(60, 144, 5, 2),
        make_depthwise_row(30, 240, 5, 1),
        make_depthwise_row(15, 672, 5, 1),
        make_norm_row(120, 32),
        make_norm_row(60, 144),
        make_folded_norm_row(120, 96),
        make_folded_norm_row(60, 144),
        make_product_norm_row(120, 16, 96),
        make_product_norm_row(60, 24, 144),
        make_product_norm_row(15, 112, 672),
        make_gate_row(120, 32, 16),
        make_gate_row(60, 144, 24),
        make_stem_row(),
    ]
    print(
        f"| layer, {arguments.batch} images, forward and backward | plain, ms | here, ms | ratio |\n|---|---|---|---|"
    )
    generator = np.random.default_rng(0)
    for name, plain, ours, shapes in rows:
        # Images and gates have a batch dimension (a gate's shape begins with 0), parameters have none.
        sizes = [(arguments.batch, *s) if len(s) == 3 and i == 0 else s for i, s in enumerate(shapes)]
        sizes = [(arguments.batch, *s[1:]) if s[0] == 0 else s for s in sizes]
        inputs = [jnp.asarray(generator.normal(size=size), jnp.float32) for size in sizes]
        before, after = measure_in_turns([compile_pass(form, inputs) for form in (plain, ours)], arguments.repeats)
        print(f"| {name} | {before:.1f} | {after:.1f} | {before / after:.1f} |", flush=True)
    print_forwards(arguments.batch, arguments.repeats)


if __name__ == "__main__":
    main()
