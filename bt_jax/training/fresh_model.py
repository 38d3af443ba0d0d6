"""The model that a fresh run starts from."""

import jax
import numpy as np

from bt_jax.models.normalise import Normalisation
from bt_jax.models.registry import Network, Tree


def calibrate_statistics(
    network: Network, params: Tree, batch_stats: Tree, *, images: np.ndarray, normalisation: Normalisation
) -> Tree:
    """Running statistics measured on images, for a network with random weights.

    Those it is built with fit nothing: frozen, the network would put out next to zero. The head learns its own.

    Args:
      network: built with a BatchNorm momentum of 0, so that a single batch replaces the statistics.
      params: of the network.
      batch_stats: of the network.
      images: [B, S, S] float32 in [0, 1].
      normalisation: from grey pixels to what the network expects.
    """

    @jax.jit
    def measure(params: Tree, batch_stats: Tree, images: jax.Array) -> Tree:
        head, key = network.segment_names[-1], jax.random.key(0)
        return network.apply(params, batch_stats, normalisation(images), stop=head, trained=True, dropout_key=key)[1]

    return measure(params, batch_stats, images)
