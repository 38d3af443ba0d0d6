"""The forward pass of a network over many images, on all devices of all hosts."""

import copy
import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from bt_jax.distributed import processes, sharding
from bt_jax.inference.forward import Forward, compute_outputs, make_forward, make_upper_forward, prefers_pairs
from bt_jax.models.normalise import Normalisation
from bt_jax.models.registry import Network, Tree


class ShardedForward:
    """Computes a network's outputs for arrays of any length. Every host calls it alike and gets all outputs.

    Batches have the requested size or are a little larger, so that the devices divide them evenly. The last batch is
    padded; the outputs of the padding are removed.

    Args:
      network: to run.
      normalisation: from grey pixels to what the network expects.
      dtype: of the computation.
      mesh: the devices.
      batch_size: images in a batch, over all devices.
      mirrored: whether `compute` returns the means over an image and its mirror image. It runs the program twice.
    """

    def __init__(
        self,
        network: Network,
        *,
        normalisation: Normalisation,
        dtype: jnp.dtype,
        mesh: Mesh,
        batch_size: int,
        mirrored: bool = False,
    ):
        self._network, self._normalisation, self._dtype, self._mirrored = network, normalisation, dtype, mirrored
        self._mesh, self._batch_size = mesh, batch_size
        everywhere = sharding.get_replicated_sharding(mesh)
        self._shardings = (
            None if mesh.size == 1 else ((everywhere, everywhere, sharding.get_batch_sharding(mesh)), everywhere)
        )
        self._whole = make_forward(
            network,
            normalisation=normalisation,
            dtype=dtype,
            shardings=self._shardings,
            by_pairs=prefers_pairs(mesh.devices.flat),
        )
        self._upper: dict[str, Forward] = {}

    def copy_mirrored(self) -> "ShardedForward":
        """Returns a forward pass that shares the compiled programs, whose `compute` averages over mirror images."""
        mirrored = copy.copy(self)
        mirrored._mirrored = True
        return mirrored

    def compute(self, weights: Tree, images: np.ndarray) -> tuple[np.ndarray, ...]:
        """Returns logits [N, classes] and the features that the last segment decides by [N, D], float32.

        Args:
          weights: {`params`, `batch_stats`}.
          images: [N, S, S] uint8, preprocessed.
        """
        outputs = self._run(self._whole, weights, images, mirrored=self._mirrored)
        if not self._mirrored:
            return outputs
        half = len(outputs) // 2
        return tuple((one + other) / 2 for one, other in zip(outputs[:half], outputs[half:], strict=True))

    def compute_from(self, segment: str, weights: Tree, features: np.ndarray) -> np.ndarray:
        """Returns the logits [N, classes] float32 of features [N, ...] float32, the input of a segment."""
        if segment not in self._upper:
            self._upper[segment] = make_upper_forward(
                self._network, start=segment, dtype=self._dtype, shardings=self._shardings
            )
        return self._run(self._upper[segment], weights, features)[0]

    def load_on_first_host(self, weights: Tree) -> "LoadedForward":
        """Returns a forward pass with these weights that the first host can use while the others wait.

        All hosts call this alike.
        """
        if not processes.is_distributed():
            return LoadedForward(self, weights)
        device = jax.local_devices()[0]
        alone = ShardedForward(
            self._network,
            normalisation=self._normalisation,
            dtype=self._dtype,
            mesh=Mesh(np.array([device]), (sharding.DATA_AXIS,)),
            batch_size=self._batch_size,
            mirrored=self._mirrored,
        )
        local = jax.tree.map(np.asarray, sharding.gather(weights, self._mesh))
        return LoadedForward(alone, jax.device_put(local, device))

    def _run(
        self, forward: Forward, weights: Tree, inputs: np.ndarray, *, mirrored: bool = False
    ) -> tuple[np.ndarray, ...]:
        arguments, rows = (weights["params"], weights["batch_stats"]), self._batch_size
        if self._mesh.size > 1:
            rows = -(-rows // self._mesh.size) * self._mesh.size
            forward = functools.partial(self._run_batch, forward, sharding.get_host_rows(self._mesh, rows))
            arguments = sharding.gather(arguments, self._mesh)
        if mirrored:
            forward = _add_mirrored(forward)
        return compute_outputs(forward, *arguments, images=inputs, batch_size=rows)

    def _run_batch(
        self, forward: Forward, rows: np.ndarray, params: Tree, batch_stats: Tree, batch: np.ndarray
    ) -> tuple[jax.Array, ...]:
        return forward(params, batch_stats, sharding.make_transfer(self._mesh)(batch[rows]))


def _add_mirrored(forward: Forward) -> Forward:
    """Returns a function that computes the outputs of images, and then those of their mirror images.

    It runs the same program twice: one for both would have to be compiled besides the one that validates.
    """
    return lambda params, batch_stats, images: (
        *forward(params, batch_stats, images),
        *forward(params, batch_stats, images[:, :, ::-1]),
    )


@dataclasses.dataclass(frozen=True)
class LoadedForward:
    """A forward pass together with weights, {`params`, `batch_stats`}."""

    forward: ShardedForward
    weights: Tree

    def compute(self, images: np.ndarray) -> tuple[np.ndarray, ...]:
        """Returns logits [N, classes] and features [N, D] float32 of preprocessed images [N, S, S] uint8."""
        return self.forward.compute(self.weights, images)
