"""A network with its weights, one member of a `TrainedModel` that JAX computes."""

import dataclasses

from bt_jax.models.normalise import Normalisation
from bt_jax.models.registry import Network, Tree


@dataclasses.dataclass(frozen=True)
class TrainedNetwork:
    """A network with its weights.

    Attributes:
      network: the network.
      params: its parameters.
      batch_stats: its running statistics.
      normalisation: from grey pixels to what it expects.
      mirrored: whether its outputs are the means over an image and its mirror image.
    """

    network: Network
    params: Tree
    batch_stats: Tree
    normalisation: Normalisation
    mirrored: bool = False
