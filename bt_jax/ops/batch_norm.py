"""Batch normalisation with its activation, alone and after a 1x1 convolution.

Both functions return what BatchNorm layers need, (outputs, mean and variance of the batch), and choose at run time
between the batch's statistics and the running ones. Statistics are float32 whatever the dtype of the images.

On accelerators they are what they say, and the compiler fuses them and their gradients well. On a CPU they have
gradients of their own. In the derivations z = factor * x + shift is what the activation sees, with
factor = scale / sqrt(variance + epsilon), dz is its gradient, and t is 1 where the batch's statistics are used, else 0.
With the normalised x^ the gradient is dx = factor * (dz - t * mean(dz) - t * x^ * mean(dz * x^))  (arXiv:1502.03167,
section 3).
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from bt_jax.ops.platform import materialise
from bt_jax.ops.pointwise import pointwise

Activation = Callable[[jax.Array], jax.Array]
Statistics = tuple[jax.Array, jax.Array, jax.Array]  # outputs, mean and variance of the batch


def norm_activation(
    x: jax.Array,
    scale: jax.Array,
    bias: jax.Array,
    mean: jax.Array,
    variance: jax.Array,
    by_batch: jax.Array,
    *,
    epsilon: float,
    activation: Activation,
) -> Statistics:
    """activation(BatchNorm(x)).

    Args:
      x: [..., C].
      scale: [C] float32.
      bias: [C] float32.
      mean: [C] float32, the running mean.
      variance: [C] float32, the running variance.
      by_batch: float32 [], 1 to normalise by the batch, 0 by the running statistics.
      epsilon: added to the variance.
      activation: elementwise.

    Returns:
      Outputs [..., C] in the dtype of `x`; the batch's mean and biased variance, [C] float32, not to be differentiated.
    """
    return jax.lax.platform_dependent(
        x, scale, bias, mean, variance, by_batch,
        cpu=lambda *arrays: norm_activation_on_cpu(*arrays, epsilon, activation),
        default=functools.partial(plain_norm_activation, epsilon=epsilon, activation=activation),
    )  # fmt: skip


def plain_norm_activation(
    x: jax.Array,
    scale: jax.Array,
    bias: jax.Array,
    mean: jax.Array,
    variance: jax.Array,
    by_batch: jax.Array,
    *,
    epsilon: float,
    activation: Activation,
) -> Statistics:
    """The definition, differentiated by JAX. As `norm_activation`."""
    axes, values = tuple(range(x.ndim - 1)), _wide(x)
    batch_mean = values.mean(axes)
    batch_variance = jnp.maximum(jnp.square(values).mean(axes) - jnp.square(batch_mean), 0)
    mean = jnp.where(by_batch > 0, batch_mean, mean)
    variance = jnp.where(by_batch > 0, batch_variance, variance)
    factor = scale * jax.lax.rsqrt(variance + epsilon)
    return activation((x * factor + (bias - mean * factor)).astype(x.dtype)), batch_mean, batch_variance


@functools.partial(jax.custom_vjp, nondiff_argnums=(6, 7))
def norm_activation_on_cpu(
    x: jax.Array,
    scale: jax.Array,
    bias: jax.Array,
    mean: jax.Array,
    variance: jax.Array,
    by_batch: jax.Array,
    epsilon: float,
    activation: Activation,
) -> Statistics:
    """As `norm_activation`. The backward pass keeps `x` alone and computes the rest again."""
    return _forward(x, scale, bias, mean, variance, by_batch, epsilon, activation)[0]


def _forward(
    x: jax.Array,
    scale: jax.Array,
    bias: jax.Array,
    mean: jax.Array,
    variance: jax.Array,
    by_batch: jax.Array,
    epsilon: float,
    activation: Activation,
) -> tuple[Statistics, tuple[Any, ...]]:
    x = materialise(x)
    axes, values = tuple(range(x.ndim - 1)), _wide(x)
    batch_mean = values.mean(axes)
    batch_variance = jnp.maximum(jnp.square(values).mean(axes) - jnp.square(batch_mean), 0)
    affine = _affine(scale, bias, batch_mean, batch_variance, mean, variance, by_batch, epsilon)
    _, _, factor, shift = affine
    y = activation((x * factor + shift).astype(x.dtype))
    return (y, batch_mean, batch_variance), (x, *affine, by_batch)


def _affine(
    scale: jax.Array,
    bias: jax.Array,
    batch_mean: jax.Array,
    batch_variance: jax.Array,
    mean: jax.Array,
    variance: jax.Array,
    by_batch: jax.Array,
    epsilon: float,
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """Mean, inverse standard deviation, factor and shift in use."""
    mean = jnp.where(by_batch > 0, batch_mean, mean)
    inverse = jax.lax.rsqrt(jnp.where(by_batch > 0, batch_variance, variance) + epsilon)
    factor = scale * inverse
    return materialise((mean, inverse, factor, bias - mean * factor))


def _backward(
    epsilon: float, activation: Activation, saved: tuple[Any, ...], gradients: Statistics
) -> tuple[jax.Array, ...]:
    del epsilon
    # Materialised once more, or XLA keeps parts of the forward pass's activation instead of computing them again.
    x, mean, inverse, factor, shift, by_batch = materialise(saved)
    axes, count = tuple(range(x.ndim - 1)), x.size // x.shape[-1]
    dz = _before_activation(activation, x, factor, shift, gradients[0])
    bias_gradient = _wide(dz).sum(axes)
    scale_gradient = (_wide(dz) * (x - mean)).sum(axes) * inverse
    slope = -by_batch * factor * inverse * scale_gradient / count
    offset = -slope * mean - by_batch * factor * bias_gradient / count
    slope, offset = materialise((slope, offset))
    dx = (factor * dz + (slope * x + offset)).astype(x.dtype)
    return dx, scale_gradient, bias_gradient, *_no_gradients(mean, by_batch)


norm_activation_on_cpu.defvjp(_forward, _backward)


def pointwise_norm_activation(
    x: jax.Array,
    kernel: jax.Array,
    scale: jax.Array,
    bias: jax.Array,
    mean: jax.Array,
    variance: jax.Array,
    by_batch: jax.Array,
    *,
    epsilon: float,
    activation: Activation,
) -> Statistics:
    """activation(BatchNorm(x @ kernel)), best where there are many more channels after the product than before.

    Args:
      x: [..., C].
      kernel: [C, D], same dtype as `x`.
      scale: [D] float32; this and all others as in `norm_activation`.
    """

    def plain(x: jax.Array, kernel: jax.Array, *arrays: jax.Array) -> Statistics:
        return plain_norm_activation(pointwise(x, kernel), *arrays, epsilon=epsilon, activation=activation)

    return jax.lax.platform_dependent(
        x, kernel, scale, bias, mean, variance, by_batch,
        cpu=lambda *arrays: pointwise_norm_activation_on_cpu(*arrays, epsilon, activation),
        default=plain,
    )  # fmt: skip


@functools.partial(jax.custom_vjp, nondiff_argnums=(7, 8))
def pointwise_norm_activation_on_cpu(
    x: jax.Array,
    kernel: jax.Array,
    scale: jax.Array,
    bias: jax.Array,
    mean: jax.Array,
    variance: jax.Array,
    by_batch: jax.Array,
    epsilon: float,
    activation: Activation,
) -> Statistics:
    """As `pointwise_norm_activation`.

    The statistics of a product follow from those of its input: with the covariance S of the channels of `x`, the
    mean of x @ W is mean(x) @ W and its variance diag(W' S W). In the same way the backward pass takes all sums over
    pixels from X' dz, with X the centred input, the product that the kernel's gradient needs anyway:

        sum(dz * X W)          = diag(W' (X' dz))
        gradient of the kernel = factor * X' dz + slope * X' X W     with slope = -t * factor * sum(dz * x^) / (n * std)
        gradient of x          = dz (factor * W)' + X (slope * W) W' + W offset

    So the large arrays, of the product, are read three times in all instead of ten.
    """
    return _pointwise_forward(x, kernel, scale, bias, mean, variance, by_batch, epsilon, activation)[0]


def _pointwise_forward(
    x: jax.Array,
    kernel: jax.Array,
    scale: jax.Array,
    bias: jax.Array,
    mean: jax.Array,
    variance: jax.Array,
    by_batch: jax.Array,
    epsilon: float,
    activation: Activation,
) -> tuple[Statistics, tuple[Any, ...]]:
    rows = materialise(x.reshape(-1, x.shape[-1]))
    input_mean = _wide(rows).mean(0)
    centred = materialise((rows - input_mean).astype(x.dtype))
    covariance = _product(centred.T, centred) / rows.shape[0]
    weights = _wide(kernel)
    spread = _exact_product(covariance, weights)
    batch_mean = _exact_product(input_mean, weights)
    batch_variance = jnp.maximum((weights * spread).sum(0), 0)
    affine = _affine(scale, bias, batch_mean, batch_variance, mean, variance, by_batch, epsilon)
    _, _, factor, shift = affine
    products = materialise(rows @ kernel)
    y = activation((products * factor + shift).astype(x.dtype)).reshape(*x.shape[:-1], -1)
    return (y, batch_mean, batch_variance), (rows, products, kernel, input_mean, spread, *affine, by_batch)


def _pointwise_backward(
    epsilon: float, activation: Activation, saved: tuple[Any, ...], gradients: Statistics
) -> tuple[jax.Array, ...]:
    del epsilon
    rows, products, kernel, input_mean, spread, mean, inverse, factor, shift, by_batch = materialise(saved)
    gradient, count = gradients[0], rows.shape[0]
    dz = _before_activation(activation, products, factor, shift, gradient.reshape(products.shape))
    centred = materialise((rows - input_mean).astype(rows.dtype))
    weights = _wide(kernel)
    moments = _product(centred.T, dz)
    bias_gradient = _wide(dz).sum(0)
    centred_sum = (weights * moments).sum(0)
    # `mean` is another than the batch's where the running statistics are used.
    scale_gradient = inverse * (centred_sum + bias_gradient * (_exact_product(input_mean, weights) - mean))
    slope = -by_batch * factor * inverse * inverse * centred_sum / count
    offset = -by_batch * factor * bias_gradient / count
    kernel_gradient = factor * moments + slope * count * spread
    kernel_gradient += jnp.outer(input_mean, (1 - by_batch) * factor * bias_gradient)
    dx = dz @ (weights * factor).T.astype(rows.dtype)
    dx += centred @ _exact_product(weights * slope, weights.T).astype(rows.dtype)
    dx += _exact_product(weights, offset).astype(rows.dtype)
    return (
        dx.reshape(*gradient.shape[:-1], -1),
        kernel_gradient.astype(kernel.dtype),
        scale_gradient,
        bias_gradient,
        *_no_gradients(mean, by_batch),
    )


pointwise_norm_activation_on_cpu.defvjp(_pointwise_forward, _pointwise_backward)


def _before_activation(
    activation: Activation, x: jax.Array, factor: jax.Array, shift: jax.Array, gradient: jax.Array
) -> jax.Array:
    """dz, the gradient before the activation."""
    _, pull = jax.vjp(activation, (x * factor + shift).astype(x.dtype))
    return materialise(pull(gradient)[0])


def _no_gradients(mean: jax.Array, by_batch: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Those of the running statistics and of the switch."""
    return jnp.zeros_like(mean), jnp.zeros_like(mean), jnp.zeros_like(by_batch)


def _wide(x: jax.Array) -> jax.Array:
    """At least float32."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def _product(a: jax.Array, b: jax.Array) -> jax.Array:
    """Summed up in float32 at least."""
    return jnp.matmul(a, b, preferred_element_type=jnp.promote_types(a.dtype, jnp.float32))


def _exact_product(a: jax.Array, b: jax.Array) -> jax.Array:
    """Of small matrices, in full precision also where the hardware's fast product rounds its inputs."""
    return jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)
