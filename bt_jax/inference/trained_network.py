"""A network with its weights, one member of a `TrainedModel` that JAX computes."""

import dataclasses

from bt_jax.models.normalise import Normalisation
from bt_jax.models.registry import Network, Tree


@dataclasses.dataclass(frozen=True)
class TrainedNetwork:
    """A network with its weights."""

    network: Network
    params: Tree
    batch_stats: Tree
    normalisation: Normalisation
