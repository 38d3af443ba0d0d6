"""Depthwise convolution that is fast on every platform.

XLA's CPU backend runs a grouped convolution as a scalar loop, 10 to 30 times slower than necessary (jax-ml/jax #23713,
#13800, google/flax #4207). On a CPU, this module sums (shifted, strided slice of the padded input) x (tap weights) over
the taps instead, which fuses into one vectorised loop, and defines both gradients. On GPU and TPU it uses the native
convolution. `platform.select_form` selects the form inside one program, so that program exports for every
platform.
"""

import functools
from collections.abc import Callable, Sequence

import jax
import jax.custom_batching
import jax.numpy as jnp
from jax.experimental.custom_partitioning import custom_partitioning
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from bt_jax.ops.platform import materialise, select_form

Padding = tuple[tuple[int, int], tuple[int, int]]


def depthwise_convolution(x: jax.Array, kernel: jax.Array, *, stride: int, padding: Padding) -> jax.Array:
    """Convolves every channel with its own filter.

    Args:
      x: [B, H, W, C].
      kernel: [K, K, C], same dtype as `x`.
      stride: step in both directions.
      padding: rows and columns of zeros ((top, bottom), (left, right)).

    Returns:
      [B, H', W', C] with H' = (H + top + bottom - K) // stride + 1, and W' likewise.
    """
    return select_form(
        x,
        kernel,
        cpu=functools.partial(shift_and_add, stride=stride, padding=padding),
        default=functools.partial(convolve_natively, stride=stride, padding=padding),
    )


def convolve_natively(x: jax.Array, kernel: jax.Array, *, stride: int, padding: Padding) -> jax.Array:
    """Computes the grouped convolution with XLA's own operation. Shapes as in `depthwise_convolution`."""
    return jax.lax.conv_general_dilated(
        x,
        kernel[:, :, None, :],
        window_strides=(stride, stride),
        padding=padding,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=x.shape[-1],
    )


@functools.partial(jax.jit, static_argnames=("stride", "padding"))  # so that layers of equal shapes are traced once
def shift_and_add(x: jax.Array, kernel: jax.Array, *, stride: int, padding: Padding) -> jax.Array:
    """Sums shifted products of the input: the form for the CPU, with custom gradients.

    Shapes as in `depthwise_convolution`."""
    return _shift_and_add(x, kernel, stride, padding)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _shift_and_add(x: jax.Array, kernel: jax.Array, stride: int, padding: Padding) -> jax.Array:
    return _forward(x, kernel, stride, padding)[0]


def _forward(x: jax.Array, kernel: jax.Array, stride: int, padding: Padding) -> tuple[jax.Array, tuple]:
    size = kernel.shape[0]
    rows = (x.shape[1] + sum(padding[0]) - size) // stride + 1
    columns = (x.shape[2] + sum(padding[1]) - size) // stride + 1
    padded = materialise(jnp.pad(x, ((0, 0), *padding, (0, 0))))
    window = functools.partial(_multiply_window, padded, kernel, stride=stride, rows=rows, columns=columns)
    terms = (window(tap=(i, j), corner=(i, j)) for i in range(size) for j in range(size))
    return materialise(functools.reduce(jax.lax.add, terms)), (padded, kernel)


def _multiply_window(
    x: jax.Array,
    kernel: jax.Array,
    *,
    tap: tuple[int, int],
    corner: tuple[int, int],
    stride: int,
    rows: int,
    columns: int,
) -> jax.Array:
    """Multiplies the values at every `stride`-th place from a corner on, [B, rows, columns, C], by a tap's weights.

    It is x[:, top::stride, left::stride] * kernel[tap]. A network has hundreds of these, and the operations of `lax`
    are traced in half of the time that those of `jax.numpy` take.
    """
    (top, left), channels = corner, x.shape[-1]
    end = x.shape[0], top + stride * (rows - 1) + 1, left + stride * (columns - 1) + 1, channels
    window = jax.lax.slice(x, (0, top, left, 0), end, (1, stride, stride, 1))
    weights = jax.lax.slice(kernel, (*tap, 0), (tap[0] + 1, tap[1] + 1, channels))
    return jax.lax.mul(window, jax.lax.broadcast_in_dim(weights, window.shape, (1, 2, 3)))


def _backward(stride: int, padding: Padding, saved: tuple, gradient: jax.Array) -> tuple[jax.Array, jax.Array]:
    padded, kernel = saved
    size = kernel.shape[0]
    lengths = tuple(length - sum(pads) for length, pads in zip(padded.shape[1:3], padding, strict=True))
    margins = tuple(
        _compute_margins(low, size, stride, outputs=outputs, inputs=inputs)
        for (low, _), outputs, inputs in zip(padding, gradient.shape[1:3], lengths, strict=True)
    )
    # Written once, for both gradients.
    surrounded = materialise(jnp.pad(gradient, ((0, 0), *margins, (0, 0))))
    origin = margins[0][0], margins[1][0]
    return (
        _compute_input_gradient(surrounded, kernel, origin=origin, stride=stride, padding=padding, lengths=lengths),
        _make_kernel_gradient(origin, gradient.shape[1:], stride, size)(padded, surrounded),
    )


_shift_and_add.defvjp(_forward, _backward)


def _compute_input_gradient(
    surrounded: jax.Array,
    kernel: jax.Array,
    *,
    origin: tuple[int, int],
    stride: int,
    padding: Padding,
    lengths: tuple[int, int],
) -> jax.Array:  # [B, H' + margins, W' + margins, C] -> [B, H, W, C]
    """Computes the gradient of the input phase by phase.

    Each of the stride x stride phases of the input meets only every stride-th tap. A dilated array would spend most of
    its products on zeros (three quarters at stride 2).
    """
    size = kernel.shape[0]
    rows, columns = (-(-length // stride) for length in lengths)  # of a phase
    phases = []
    for row_phase in range(stride):
        for column_phase in range(stride):
            terms = [
                _multiply_window(
                    surrounded, kernel, tap=(i, j), corner=(top, left), stride=1, rows=rows, columns=columns
                )
                for i, di in _find_taps(row_phase, padding[0][0], size, stride)
                for j, dj in _find_taps(column_phase, padding[1][0], size, stride)
                for top, left in [(origin[0] + di, origin[1] + dj)]
            ]
            zeros = jnp.zeros((surrounded.shape[0], rows, columns, surrounded.shape[3]), surrounded.dtype)
            phases.append(functools.reduce(jax.lax.add, terms) if terms else zeros)
    if stride == 1:
        return materialise(phases[0])
    interleaved = jnp.stack(phases).reshape(stride, stride, *phases[0].shape).transpose(2, 3, 0, 4, 1, 5)
    shape = (surrounded.shape[0], rows * stride, columns * stride, surrounded.shape[3])
    return materialise(interleaved.reshape(shape)[:, : lengths[0], : lengths[1]])


def _find_taps(phase: int, low: int, size: int, stride: int) -> list[tuple[int, int]]:
    """Lists the taps that meet the inputs at phase, phase + stride, ..., each with the output of the first such input.

    `low` is the number of zeros before the first input.
    """
    return [(tap, (phase + low - tap) // stride) for tap in range(size) if (phase + low - tap) % stride == 0]


def _compute_margins(low: int, size: int, stride: int, *, outputs: int, inputs: int) -> tuple[int, int]:
    """Computes the zeros needed before and after the gradient of the outputs so that all taps of all phases fit."""
    offsets = [offset for phase in range(stride) for _, offset in _find_taps(phase, low, size, stride)]
    return max(0, -min(offsets)), max(0, max(offsets) + -(-inputs // stride) - outputs)


# Bytes of a strip of rows that are multiplied at a time: the accumulators of all taps stay in the L2 cache.
STRIP_BYTES = 65_536


def _sum_strips(
    padded: jax.Array,
    surrounded: jax.Array,
    *,
    origin: tuple[int, int],
    shape: tuple[int, int, int],
    stride: int,
    size: int,
) -> jax.Array:  # [B, H + padding, W + padding, C], [B, H' + margins, W' + margins, C] -> [K, K, C]
    """Sums over the image in strips of rows, with K x K accumulators of the strip's shape, which stay in cache.

    As a plain reduction XLA reads the whole of both arrays once per tap with a strided scalar loop. At stride 1,
    columns and channels form one axis along which a tap is a shift, so the inner loops are long even with few channels.
    """
    batch, (rows, columns, channels) = padded.shape[0], shape
    dtype = jnp.promote_types(surrounded.dtype, jnp.float32)
    rows_in_strip = STRIP_BYTES // (columns * channels * dtype.itemsize) if stride == 1 else 1
    strip = max(n for n in range(1, rows + 1) if rows % n == 0 and n <= max(1, rows_in_strip))
    strips = rows // strip
    step, width = (channels, columns * channels) if stride == 1 else (1, columns)  # of a column, of a row
    if stride == 1:
        padded, surrounded = (array.reshape(*array.shape[:2], -1) for array in (padded, surrounded))
    accumulators = (strip, width) if stride == 1 else (strip, columns, channels)
    # Numbers that the compiler does not know: with their places in the code, each tap would be a kernel of its own.
    tops, lefts = jax.lax.optimization_barrier(
        ([jnp.int32(i) for i in range(size)], [jnp.int32(j * step) for j in range(size)])
    )

    def add_strip(index: jax.Array, sums: list[jax.Array]) -> list[jax.Array]:
        image, row = index // strips, index % strips * strip
        upstream = _slice_map(surrounded, (image, origin[0] + row, jnp.int32(origin[1] * step)), accumulators)
        corners = ((image, row * stride + top, left) for top in tops for left in lefts)
        return [
            _add_product(total, upstream, padded, corner, stride=stride)
            for total, corner in zip(sums, corners, strict=True)
        ]

    zeros = [jnp.zeros(accumulators, dtype)] * (size * size)
    sums = jax.lax.fori_loop(0, batch * strips, add_strip, zeros)
    totals = jnp.stack([total.reshape(-1, channels).sum(0) for total in sums])
    return totals.reshape(size, size, channels).astype(surrounded.dtype)


@functools.lru_cache
def _make_kernel_gradient(
    origin: tuple[int, int], shape: tuple[int, int, int], stride: int, size: int
) -> Callable[[jax.Array, jax.Array], jax.Array]:
    """Returns `_sum_strips` in a form where each device sums over its own images.

    Without it, XLA would gather all images on all devices for the loop."""

    def walk(padded: jax.Array, surrounded: jax.Array) -> jax.Array:
        return _sum_strips(padded, surrounded, origin=origin, shape=shape, stride=stride, size=size)

    def walk_by_device(
        mesh: Mesh, arguments: tuple[jax.ShapeDtypeStruct, ...], result: jax.ShapeDtypeStruct
    ) -> tuple[Mesh, Callable[..., jax.Array], NamedSharding, tuple[NamedSharding, ...]]:
        del result
        axes = arguments[0].sharding.spec[0]
        by_image = NamedSharding(mesh, PartitionSpec(axes))

        def of_device(padded: jax.Array, surrounded: jax.Array) -> jax.Array:
            gradient = walk(padded, surrounded)
            return jax.lax.psum(gradient, axes) if axes else gradient

        return mesh, of_device, NamedSharding(mesh, PartitionSpec()), (by_image, by_image)

    divided = custom_partitioning(walk)
    divided.def_partition(partition=walk_by_device, sharding_rule="b h w c, b i j d -> k l e", reduction_factors=("b",))

    # A custom partitioning has neither a rule for `vmap` nor derivatives.
    mapped = jax.custom_batching.custom_vmap(divided)

    @mapped.def_vmap
    def _(count: int, batched: list[bool], *arrays: jax.Array) -> tuple[jax.Array, bool]:
        del count
        return jax.vmap(walk, in_axes=[0 if each else None for each in batched])(*arrays), True

    bilinear = jax.custom_jvp(mapped)

    @bilinear.defjvp
    def _(primals: tuple[jax.Array, ...], tangents: tuple[jax.Array, ...]) -> tuple[jax.Array, jax.Array]:
        (padded, surrounded), (of_padded, of_surrounded) = primals, tangents
        return bilinear(padded, surrounded), walk(of_padded, surrounded) + walk(padded, of_surrounded)

    return bilinear


@functools.partial(jax.jit, static_argnames="stride")
def _add_product(
    total: jax.Array, factor: jax.Array, maps: jax.Array, corner: Sequence[jax.Array], *, stride: int
) -> jax.Array:  # [h, w, ...], [h, w, ...], [B, H, W, ...] -> [h, w, ...]
    """Adds the product with the values at every `stride`-th place from a corner on: (image, row, column)."""
    rows, columns, *channels = total.shape
    window = _slice_map(maps, corner, ((rows - 1) * stride + 1, (columns - 1) * stride + 1, *channels))
    return total + window[::stride, ::stride] * factor


def _slice_map(
    maps: jax.Array, corner: Sequence[jax.Array], shape: tuple[int, ...]
) -> jax.Array:  # [B, H, W, ...] -> shape
    start = [place.astype(jnp.int32) for place in corner] + [jnp.int32(0)] * (maps.ndim - 3)
    return jax.lax.dynamic_slice(maps, start, (1, *shape), allow_negative_indices=False)[0]
