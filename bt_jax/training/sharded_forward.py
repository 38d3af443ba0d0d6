"""The network's outputs for many images, each once, computed by all devices of all hosts."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from bt_jax.distributed import processes, sharding
from bt_jax.inference.forward import Forward, compute_outputs, make_forward, make_upper_forward
from bt_jax.models.normalise import Normalisation
from bt_jax.models.registry import Network, Tree

# (params, batch_stats, images=[N, S, S] uint8) -> logits [N, classes] and features [N, D], float32.
OutputsOf = Callable[..., tuple[np.ndarray, ...]]


def make_outputs(
    network: Network, *, normalisation: Normalisation, dtype: jnp.dtype, mesh: Mesh, batch_size: int
) -> OutputsOf:
    """The function that gives them to every host. All hosts call it alike.

    Batches are as large as asked for, or a little larger, so that the devices divide them evenly; the last one is
    filled up, and what fills it is left out of the outputs.

    Args:
      network: to run.
      normalisation: from grey pixels to what the network expects.
      dtype: of the computation.
      mesh: the devices.
      batch_size: images in a step over all of them.
    """
    return _made(
        functools.partial(make_forward, network, normalisation=normalisation, dtype=dtype),
        mesh,
        batch_size,
    )


def make_upper_outputs(network: Network, *, start: str, dtype: jnp.dtype, mesh: Mesh, batch_size: int) -> OutputsOf:
    """The same of the segments from `start` up, with features [N, ...] float32 for images; gives the logits alone."""
    return _made(functools.partial(make_upper_forward, network, start=start, dtype=dtype), mesh, batch_size)


def of_first_host(
    outputs_of: OutputsOf,
    network: Network,
    weights: Tree,
    *,
    normalisation: Normalisation,
    dtype: jnp.dtype,
    mesh: Mesh,
    batch_size: int,
) -> Callable[[np.ndarray], tuple[np.ndarray, ...]]:
    """The function of images alone for some weights, {`params`, `batch_stats`}, for the first host to use by itself.

    All hosts call this, alike; what it returns is for the first one, which writes the report while the others wait.
    Without others it uses `outputs_of`, from `make_outputs` with the same arguments.
    """
    if processes.is_distributed():
        local = jax.tree.map(np.asarray, sharding.gather(weights, mesh))
        weights = jax.device_put(local, jax.local_devices()[0])
        forward = make_forward(network, normalisation=normalisation, dtype=dtype)
        outputs_of = _of(forward, batch_size)
    return lambda images: outputs_of(weights["params"], weights["batch_stats"], images=images)


def _made(make_forward: Callable[..., Forward], mesh: Mesh, batch_size: int) -> OutputsOf:
    if mesh.size == 1:
        return _of(make_forward(), batch_size)
    everywhere = sharding.get_replicated_sharding(mesh)
    forward = make_forward(shardings=((everywhere, everywhere, sharding.get_batch_sharding(mesh)), everywhere))
    rows = -(-batch_size // mesh.size) * mesh.size
    held, transfer = sharding.get_host_rows(mesh, rows), sharding.make_transfer(mesh)

    def on_mesh(params: Tree, batch_stats: Tree, images: np.ndarray) -> tuple[jax.Array, ...]:
        return forward(params, batch_stats, transfer(images[held]))

    def outputs_of(params: Tree, batch_stats: Tree, *, images: np.ndarray) -> tuple[np.ndarray, ...]:
        whole = sharding.gather((params, batch_stats), mesh)
        return compute_outputs(on_mesh, *whole, images=images, batch_size=rows)

    return outputs_of


def _of(forward: Forward, batch_size: int) -> OutputsOf:
    def outputs_of(params: Tree, batch_stats: Tree, *, images: np.ndarray) -> tuple[np.ndarray, ...]:
        return compute_outputs(forward, params, batch_stats, images=images, batch_size=batch_size)

    return outputs_of
