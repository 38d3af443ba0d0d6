"""1x1 convolutions as matrix products, with gradients that read each large array once."""

import jax
import jax.numpy as jnp

from bt_jax.ops.platform import materialise, select_form

# The number of pixels of an image above which a product per image is faster than gating the array before one product.
PIXELS_PER_PRODUCT = 900


@jax.custom_vjp
def pointwise(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Multiplies by a matrix at every pixel.

    Args:
      x: [..., C].
      kernel: [C, D], same dtype as `x`.

    Returns:
      [..., D].
    """
    return x @ kernel


def _forward(x: jax.Array, kernel: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    x = materialise(x)
    return x @ kernel, (x, kernel)


def _backward(saved: tuple[jax.Array, jax.Array], gradient: jax.Array) -> tuple[jax.Array, jax.Array]:
    x, kernel = saved
    rows = materialise(gradient).reshape(-1, gradient.shape[-1])
    return (rows @ kernel.T).reshape(x.shape), x.reshape(-1, x.shape[-1]).T @ rows


pointwise.defvjp(_forward, _backward)


def gated_pointwise(x: jax.Array, gate: jax.Array, kernel: jax.Array) -> jax.Array:
    """Computes `pointwise(x * gate, kernel)` for a gate per image and channel, such as that of squeeze-and-excite.

    On a CPU and large maps, the gate is multiplied into the matrix, one matrix per image, instead of into the pixels.
    The gradients of the kernel and of the gates follow from those of these matrices, so the gated array is never
    stored. On a TPU, the gradient of the gated array is computed twice instead of stored.

    Args:
      x: [B, H, W, C].
      gate: [B, C].
      kernel: [C, D].

    Returns:
      [B, H, W, D].
    """
    on_cpu = _gate_input if x.shape[1] * x.shape[2] < PIXELS_PER_PRODUCT else _gate_kernels
    return select_form(x, gate, kernel, cpu=on_cpu, tpu=gated_pointwise_on_tpu, default=_gate_input)


def _gate_input(x: jax.Array, gate: jax.Array, kernel: jax.Array) -> jax.Array:
    return pointwise(x * gate[:, None, None, :], kernel)


@jax.custom_vjp
def gated_pointwise_on_tpu(x: jax.Array, gate: jax.Array, kernel: jax.Array) -> jax.Array:
    """Computes `gated_pointwise` in the form for TPUs.

    The gradient of `x` depends on that of the gate, a sum over pixels, so a product that serves both is written to
    memory and read twice. Two products, each fused with its consumer, avoid these passes, and a TPU has arithmetic to
    spare: a training step of B1 moves a tenth less through the main memory.
    """
    return _gate_input(x, gate, kernel)


def _forward_twice(x: jax.Array, gate: jax.Array, kernel: jax.Array) -> tuple[jax.Array, tuple[jax.Array, ...]]:
    return gated_pointwise_on_tpu(x, gate, kernel), (x, gate, kernel)


def _backward_twice(saved: tuple[jax.Array, ...], gradient: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    x, gate, kernel = saved
    gate_gradient = (x * (gradient @ kernel.T)).astype(jnp.promote_types(x.dtype, jnp.float32)).sum((1, 2))
    gated = (x * gate[:, None, None, :]).reshape(-1, x.shape[-1])
    kernel_gradient = gated.T @ gradient.reshape(-1, gradient.shape[-1])
    gradient, kernel = jax.lax.optimization_barrier((gradient, kernel))  # else XLA merges both products
    return (gradient @ kernel.T) * gate[:, None, None, :], gate_gradient.astype(gate.dtype), kernel_gradient


gated_pointwise_on_tpu.defvjp(_forward_twice, _backward_twice)


def _gate_kernels(x: jax.Array, gate: jax.Array, kernel: jax.Array) -> jax.Array:
    batch, height, width, channels = x.shape
    products = _multiply_per_image(x.reshape(batch, height * width, channels), gate[:, :, None] * kernel)
    return products.reshape(batch, height, width, -1)


@jax.custom_vjp
def _multiply_per_image(x: jax.Array, kernels: jax.Array) -> jax.Array:  # [B, N, C], [B, C, D] -> [B, N, D]
    return jnp.einsum("bnc,bcd->bnd", x, kernels)


def _forward_per_image(x: jax.Array, kernels: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    x, kernels = materialise((x, kernels))
    return _multiply_per_image(x, kernels), (x, kernels)


def _backward_per_image(saved: tuple[jax.Array, jax.Array], gradient: jax.Array) -> tuple[jax.Array, jax.Array]:
    x, kernels = saved
    gradient = materialise(gradient)
    return jnp.einsum("bnd,bcd->bnc", gradient, kernels), jnp.einsum("bnc,bnd->bcd", x, gradient)


_multiply_per_image.defvjp(_forward_per_image, _backward_per_image)
