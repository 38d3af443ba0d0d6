"""Depthwise convolution that is fast on every platform.

XLA's CPU backend runs a grouped convolution as a scalar loop, 10 to 30 times slower than need be (jax-ml/jax #23713,
#13800, google/flax #4207). There the sum over the taps of (shifted, strided slice of the padded input) x (tap weights)
fuses into one vectorised loop, and both gradients have a form of their own. On GPU and TPU the native convolution is
right. `jax.lax.platform_dependent` picks inside one program, so the same program also exports for every platform.
"""

import functools

import jax
import jax.numpy as jnp

Padding = tuple[tuple[int, int], tuple[int, int]]


def depthwise_convolution(x: jax.Array, kernel: jax.Array, *, stride: int, padding: Padding) -> jax.Array:
    """Convolves every channel with its own filter.

    Args:
      x: [B, H, W, C].
      kernel: [K, K, C], same dtype as `x`.
      stride: step in both directions.
      padding: rows and columns of zeros ((top, bottom), (left, right)).

    Returns:
      [B, H', W', C] with H' = (H + top + bottom - K) // stride + 1, and W' alike.
    """
    return jax.lax.platform_dependent(
        x,
        kernel,
        cpu=functools.partial(shift_and_add, stride=stride, padding=padding),
        default=functools.partial(native, stride=stride, padding=padding),
    )


def native(x: jax.Array, kernel: jax.Array, *, stride: int, padding: Padding) -> jax.Array:
    """The grouped convolution of XLA. Shapes as in `depthwise_convolution`."""
    return jax.lax.conv_general_dilated(
        x,
        kernel[:, :, None, :],
        window_strides=(stride, stride),
        padding=padding,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=x.shape[-1],
    )


def shift_and_add(x: jax.Array, kernel: jax.Array, *, stride: int, padding: Padding) -> jax.Array:
    """The form for the CPU, with its own gradients. Shapes as in `depthwise_convolution`."""
    return _shift_and_add(x, kernel, stride, padding)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _shift_and_add(x: jax.Array, kernel: jax.Array, stride: int, padding: Padding) -> jax.Array:
    size = kernel.shape[0]
    rows = (x.shape[1] + sum(padding[0]) - size) // stride + 1
    columns = (x.shape[2] + sum(padding[1]) - size) // stride + 1
    padded = jnp.pad(x, ((0, 0), *padding, (0, 0)))
    terms = (
        padded[:, i : i + stride * rows : stride, j : j + stride * columns : stride] * kernel[i, j]
        for i in range(size)
        for j in range(size)
    )
    return functools.reduce(jnp.add, terms)


def _forward(x: jax.Array, kernel: jax.Array, stride: int, padding: Padding) -> tuple[jax.Array, tuple]:
    return _shift_and_add(x, kernel, stride, padding), (x, kernel)


def _backward(stride: int, padding: Padding, saved: tuple, gradient: jax.Array) -> tuple[jax.Array, jax.Array]:
    x, kernel = saved
    return (
        _input_gradient(gradient, kernel, stride=stride, padding=padding, rows=x.shape[1], columns=x.shape[2]),
        _kernel_gradient(x, gradient, stride=stride, padding=padding, size=kernel.shape[0]),
    )


_shift_and_add.defvjp(_forward, _backward)


def _input_gradient(
    gradient: jax.Array, kernel: jax.Array, *, stride: int, padding: Padding, rows: int, columns: int
) -> jax.Array:  # [B, H', W', C] -> [B, H, W, C]
    """Each of the stride x stride phases of the input sees only every stride-th tap: they are computed apart.

    A dilated array would spend most of its products on zeros (three quarters at stride 2).
    """
    size = kernel.shape[0]
    phase_rows, phase_columns = -(-rows // stride), -(-columns // stride)
    phases = []
    for row_phase in range(stride):
        for column_phase in range(stride):
            row_taps = _taps(row_phase, padding[0][0], size, stride)
            column_taps = _taps(column_phase, padding[1][0], size, stride)
            top, bottom = _margins(row_taps, gradient.shape[1], phase_rows)
            left, right = _margins(column_taps, gradient.shape[2], phase_columns)
            padded = jnp.pad(gradient, ((0, 0), (top, bottom), (left, right), (0, 0)))
            terms = [
                padded[:, top + di : top + di + phase_rows, left + dj : left + dj + phase_columns] * kernel[i, j]
                for i, di in row_taps
                for j, dj in column_taps
            ]
            zeros = jnp.zeros((gradient.shape[0], phase_rows, phase_columns, gradient.shape[3]), gradient.dtype)
            phases.append(functools.reduce(jnp.add, terms) if terms else zeros)
    if stride == 1:
        return phases[0]
    interleaved = jnp.stack(phases).reshape(stride, stride, *phases[0].shape).transpose(2, 3, 0, 4, 1, 5)
    shape = (gradient.shape[0], phase_rows * stride, phase_columns * stride, gradient.shape[3])
    return interleaved.reshape(shape)[:, :rows, :columns]


def _taps(phase: int, low: int, size: int, stride: int) -> list[tuple[int, int]]:
    """The taps that reach the inputs at phase, phase + stride, ..., each with the output it takes the first one to.

    `low` is the number of zeros before the first input.
    """
    return [(tap, (phase + low - tap) // stride) for tap in range(size) if (phase + low - tap) % stride == 0]


def _margins(taps: list[tuple[int, int]], length: int, wanted: int) -> tuple[int, int]:
    """Zeros needed before and after `length` values to read `wanted` of them from each tap's offset on."""
    offsets = [offset for _, offset in taps] or [0]
    return max(0, -min(offsets)), max(0, max(offsets) + wanted - length)


def _kernel_gradient(
    x: jax.Array, gradient: jax.Array, *, stride: int, padding: Padding, size: int
) -> jax.Array:  # [B, H, W, C], [B, H', W', C] -> [K, K, C]
    """Walks over the image rows with K x K accumulators of shape [W', C], which stay in cache.

    As a plain reduction XLA reads the whole of both arrays once per tap with a strided scalar loop.
    """
    padded = jnp.pad(x, ((0, 0), *padding, (0, 0)))
    batch, rows, columns, channels = gradient.shape

    def add_row(index: jax.Array, sums: list[jax.Array]) -> list[jax.Array]:
        image, row = index // rows, index % rows
        upstream = gradient[image, row]  # [W', C]
        window = jax.lax.dynamic_slice(padded, (image, row * stride, 0, 0), (1, size, padded.shape[2], channels))[
            0
        ]  # [K, W + padding, C]
        return [
            total + window[i, j : j + stride * columns : stride] * upstream
            for total, (i, j) in zip(sums, ((i, j) for i in range(size) for j in range(size)), strict=True)
        ]

    zeros = [jnp.zeros((columns, channels), jnp.promote_types(gradient.dtype, jnp.float32))] * (size * size)
    sums = jax.lax.fori_loop(0, batch * rows, add_row, zeros)
    return jnp.stack([total.sum(0) for total in sums]).reshape(size, size, channels).astype(gradient.dtype)
