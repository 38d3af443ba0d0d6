"""Batch normalisation with its activation, alone and after a 1x1 convolution.

Both functions return the outputs and the mean and variance of the batch. A flag that is read at run time selects
between the statistics of the batch and the running statistics. Statistics are float32 whatever the dtype of the images.

On accelerators the functions follow the definition, and the compiler fuses them and their gradients well. On a CPU they
have custom gradients. In the derivations z = factor * x + shift is the input of the activation, with
factor = scale / sqrt(variance + epsilon); dz is the gradient of z; and t is 1 where the statistics of the batch are
used, else 0. With the normalised input x^ the gradient is dx = factor * (dz - t * mean(dz) - t * x^ * mean(dz * x^))
(arXiv:1502.03167, section 3).
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from bt_jax.ops.platform import materialise, select_form
from bt_jax.ops.pointwise import pointwise

Activation = Callable[[jax.Array], jax.Array]
Statistics = tuple[jax.Array, jax.Array, jax.Array]  # outputs, mean and variance of the batch


class Norm(NamedTuple):
    """The arrays of a BatchNorm layer of C channels.

    Attributes:
      scale: [C] float32.
      bias: [C] float32.
      mean: [C] float32, the running mean.
      variance: [C] float32, the running variance.
      by_batch: float32 [], 1 to normalise by the statistics of the batch, 0 by the running statistics.
    """

    scale: jax.Array
    bias: jax.Array
    mean: jax.Array
    variance: jax.Array
    by_batch: jax.Array


class _Affine(NamedTuple):
    """The statistics in use and the map x * factor + shift that they give, each [C] float32."""

    mean: jax.Array
    inverse: jax.Array  # 1 / standard deviation
    factor: jax.Array
    shift: jax.Array


def norm_activation(x: jax.Array, norm: Norm, *, epsilon: float, activation: Activation) -> Statistics:
    """Computes activation(BatchNorm(x)).

    Args:
      x: [..., C].
      norm: of C channels.
      epsilon: added to the variance.
      activation: elementwise.

    Returns:
      Outputs [..., C] in the dtype of `x`; mean and biased variance of the batch, each [C] float32. The statistics are
      not differentiable.
    """
    return select_form(
        x,
        norm,
        cpu=lambda x, norm: norm_activation_on_cpu(x, norm, epsilon, activation),
        default=functools.partial(plain_norm_activation, epsilon=epsilon, activation=activation),
    )


def plain_norm_activation(x: jax.Array, norm: Norm, *, epsilon: float, activation: Activation) -> Statistics:
    """Computes `norm_activation` by its definition; JAX differentiates it."""
    axes, values = tuple(range(x.ndim - 1)), _widen(x)
    batch_mean = values.mean(axes)
    batch_variance = jnp.maximum(jnp.square(values).mean(axes) - jnp.square(batch_mean), 0)
    mean = jnp.where(norm.by_batch > 0, batch_mean, norm.mean)
    variance = jnp.where(norm.by_batch > 0, batch_variance, norm.variance)
    factor = norm.scale * jax.lax.rsqrt(variance + epsilon)
    return activation((x * factor + (norm.bias - mean * factor)).astype(x.dtype)), batch_mean, batch_variance


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def norm_activation_on_cpu(x: jax.Array, norm: Norm, epsilon: float, activation: Activation) -> Statistics:
    """Computes `norm_activation`. The backward pass keeps only `x` and recomputes the rest."""
    return _forward(x, norm, epsilon, activation)[0]


def _forward(x: jax.Array, norm: Norm, epsilon: float, activation: Activation) -> tuple[Statistics, tuple[Any, ...]]:
    x = materialise(x)
    axes, values = tuple(range(x.ndim - 1)), _widen(x)
    batch_mean = values.mean(axes)
    batch_variance = jnp.maximum(jnp.square(values).mean(axes) - jnp.square(batch_mean), 0)
    affine = _compute_affine(norm, batch_mean, batch_variance, epsilon)
    y = activation((x * affine.factor + affine.shift).astype(x.dtype))
    return (y, batch_mean, batch_variance), (x, affine, norm.by_batch)


def _compute_affine(norm: Norm, batch_mean: jax.Array, batch_variance: jax.Array, epsilon: float) -> _Affine:
    mean = jnp.where(norm.by_batch > 0, batch_mean, norm.mean)
    inverse = jax.lax.rsqrt(jnp.where(norm.by_batch > 0, batch_variance, norm.variance) + epsilon)
    factor = norm.scale * inverse
    return materialise(_Affine(mean, inverse, factor, norm.bias - mean * factor))


def _backward(
    epsilon: float, activation: Activation, saved: tuple[Any, ...], gradients: Statistics
) -> tuple[jax.Array, Norm]:
    del epsilon
    # Materialised once more, or XLA keeps parts of the forward pass's activation instead of computing them again.
    x, (mean, inverse, factor, shift), by_batch = materialise(saved)
    axes, count = tuple(range(x.ndim - 1)), x.size // x.shape[-1]
    dz = _differentiate_activation(activation, x, factor, shift, gradients[0])
    bias_gradient = _widen(dz).sum(axes)
    scale_gradient = (_widen(dz) * (x - mean)).sum(axes) * inverse
    slope = -by_batch * factor * inverse * scale_gradient / count
    offset = -slope * mean - by_batch * factor * bias_gradient / count
    slope, offset = materialise((slope, offset))
    dx = (factor * dz + (slope * x + offset)).astype(x.dtype)
    return dx, _make_gradients(scale_gradient, bias_gradient, by_batch)


norm_activation_on_cpu.defvjp(_forward, _backward)


def pointwise_norm_activation(
    x: jax.Array, kernel: jax.Array, norm: Norm, *, epsilon: float, activation: Activation
) -> Statistics:
    """Computes activation(BatchNorm(x @ kernel)). It is best where D is much larger than C.

    Args:
      x: [..., C].
      kernel: [C, D], same dtype as `x`.
      norm: of D channels.
      epsilon: added to the variance.
      activation: elementwise.

    Returns:
      As `norm_activation`, with D channels.
    """

    def plain(x: jax.Array, kernel: jax.Array, norm: Norm) -> Statistics:
        return plain_norm_activation(pointwise(x, kernel), norm, epsilon=epsilon, activation=activation)

    return select_form(
        x,
        kernel,
        norm,
        cpu=lambda x, kernel, norm: pointwise_norm_activation_on_cpu(x, kernel, norm, epsilon, activation),
        default=plain,
    )


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def pointwise_norm_activation_on_cpu(
    x: jax.Array, kernel: jax.Array, norm: Norm, epsilon: float, activation: Activation
) -> Statistics:
    """Computes `pointwise_norm_activation` with fewer passes over the product.

    The statistics of a product follow from those of its input: with the covariance S of the channels of `x`, the
    mean of x @ W is mean(x) @ W and its variance diag(W' S W). Likewise, the backward pass takes all sums over pixels
    from X' dz, with X the centred input. The gradient of the kernel needs that product anyway:

        sum(dz * X W)          = diag(W' (X' dz))
        gradient of the kernel = factor * X' dz + slope * X' X W     with slope = -t * factor * sum(dz * x^) / (n * std)
        gradient of x          = dz (factor * W)' + X (slope * W) W' + W offset

    The large arrays, those of the product, are read three times in all instead of ten.
    """
    return _pointwise_forward(x, kernel, norm, epsilon, activation)[0]


def _pointwise_forward(
    x: jax.Array, kernel: jax.Array, norm: Norm, epsilon: float, activation: Activation
) -> tuple[Statistics, tuple[Any, ...]]:
    rows = materialise(x.reshape(-1, x.shape[-1]))
    input_mean = _widen(rows).mean(0)
    centred = materialise((rows - input_mean).astype(x.dtype))
    covariance = _multiply(centred.T, centred) / rows.shape[0]
    weights = _widen(kernel)
    spread = _multiply_exactly(covariance, weights)
    batch_mean = _multiply_exactly(input_mean, weights)
    batch_variance = jnp.maximum((weights * spread).sum(0), 0)
    affine = _compute_affine(norm, batch_mean, batch_variance, epsilon)
    products = materialise(rows @ kernel)
    y = activation((products * affine.factor + affine.shift).astype(x.dtype)).reshape(*x.shape[:-1], -1)
    return (y, batch_mean, batch_variance), (rows, products, kernel, input_mean, spread, affine, norm.by_batch)


def _pointwise_backward(
    epsilon: float, activation: Activation, saved: tuple[Any, ...], gradients: Statistics
) -> tuple[jax.Array, jax.Array, Norm]:
    del epsilon
    rows, products, kernel, input_mean, spread, affine, by_batch = materialise(saved)
    mean, inverse, factor, shift = affine
    gradient, count = gradients[0], rows.shape[0]
    dz = _differentiate_activation(activation, products, factor, shift, gradient.reshape(products.shape))
    centred = materialise((rows - input_mean).astype(rows.dtype))
    weights = _widen(kernel)
    moments = _multiply(centred.T, dz)
    bias_gradient = _widen(dz).sum(0)
    centred_sum = (weights * moments).sum(0)
    # `mean` differs from the mean of the batch where the running statistics are used.
    scale_gradient = inverse * (centred_sum + bias_gradient * (_multiply_exactly(input_mean, weights) - mean))
    slope = -by_batch * factor * inverse * inverse * centred_sum / count
    offset = -by_batch * factor * bias_gradient / count
    kernel_gradient = factor * moments + slope * count * spread
    kernel_gradient += jnp.outer(input_mean, (1 - by_batch) * factor * bias_gradient)
    dx = dz @ (weights * factor).T.astype(rows.dtype)
    dx += centred @ _multiply_exactly(weights * slope, weights.T).astype(rows.dtype)
    dx += _multiply_exactly(weights, offset).astype(rows.dtype)
    return (
        dx.reshape(*gradient.shape[:-1], -1),
        kernel_gradient.astype(kernel.dtype),
        _make_gradients(scale_gradient, bias_gradient, by_batch),
    )


pointwise_norm_activation_on_cpu.defvjp(_pointwise_forward, _pointwise_backward)


def _differentiate_activation(
    activation: Activation, x: jax.Array, factor: jax.Array, shift: jax.Array, gradient: jax.Array
) -> jax.Array:
    """Computes dz, the gradient before the activation."""
    _, pull = jax.vjp(activation, (x * factor + shift).astype(x.dtype))
    return materialise(pull(gradient)[0])


def _make_gradients(scale: jax.Array, bias: jax.Array, by_batch: jax.Array) -> Norm:
    """Returns the gradients of a norm: zero for the running statistics and the switch."""
    return Norm(scale, bias, jnp.zeros_like(scale), jnp.zeros_like(scale), jnp.zeros_like(by_batch))


def _widen(x: jax.Array) -> jax.Array:
    """Converts to float32, or keeps a wider dtype."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def _multiply(a: jax.Array, b: jax.Array) -> jax.Array:
    """Multiplies matrices and accumulates in float32 at least."""
    return jnp.matmul(a, b, preferred_element_type=jnp.promote_types(a.dtype, jnp.float32))


def _multiply_exactly(a: jax.Array, b: jax.Array) -> jax.Array:
    """Multiplies small matrices in full precision, also where the hardware's fast product rounds its inputs."""
    return jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)
