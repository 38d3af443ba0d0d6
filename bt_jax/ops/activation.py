"""The activation after a folded BatchNorm, with a gradient that stores no further map."""

import functools
from collections.abc import Callable

import jax

from bt_jax.ops.platform import materialise, select_form

Activation = Callable[[jax.Array], jax.Array]


def shift_activation(x: jax.Array, shift: jax.Array, *, activation: Activation) -> jax.Array:
    """Computes activation(x + shift).

    Args:
      x: [..., C], the output of a convolution.
      shift: [C] float32.
      activation: elementwise.

    Returns:
      [..., C] in the dtype of `x`.
    """
    return select_form(
        x,
        shift,
        cpu=lambda x, shift: shift_activation_on_cpu(x, shift, activation),
        default=functools.partial(_compute, activation=activation),
    )


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def shift_activation_on_cpu(x: jax.Array, shift: jax.Array, activation: Activation) -> jax.Array:
    """Computes `shift_activation`. The backward pass keeps only `x` and computes the activation's slope from it.

    Left to itself, JAX keeps what the slope needs: for Swish a map of sigmoids for every layer, which costs more time
    to write and to read than to compute again.
    """
    return _compute(x, shift, activation=activation)


def _compute(x: jax.Array, shift: jax.Array, *, activation: Activation) -> jax.Array:
    return activation((x + shift).astype(x.dtype))


def _forward(x: jax.Array, shift: jax.Array, activation: Activation) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    x = materialise(x)
    return _compute(x, shift, activation=activation), (x, shift)


def _backward(
    activation: Activation, saved: tuple[jax.Array, jax.Array], gradient: jax.Array
) -> tuple[jax.Array, jax.Array]:
    x, shift = materialise(saved)  # or XLA merges this with the forward pass, and keeps its parts
    _, pull = jax.vjp(activation, (x + shift).astype(x.dtype))
    slope = materialise(pull(gradient)[0])
    return slope, slope.astype(shift.dtype).sum(range(x.ndim - 1))


shift_activation_on_cpu.defvjp(_forward, _backward)
