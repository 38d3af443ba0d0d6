"""A network with its weights, one member of a `TrainedModel` that JAX computes."""

import dataclasses
import functools
import typing
from typing import Any

from bt_jax.inference.description import ModelDescription

if typing.TYPE_CHECKING:
    from bt_jax.models.normalise import Normalisation
    from bt_jax.models.registry import Network, Tree


@dataclasses.dataclass(frozen=True)
class TrainedNetwork:
    """A network with its weights. The code of the network is imported when it is asked for.

    Attributes:
      description: of the network.
      params: its parameters.
      batch_stats: its running statistics.
    """

    description: ModelDescription
    params: "Tree"
    batch_stats: "Tree"

    @functools.cached_property
    def network(self) -> "Network":
        """The network."""
        return self.description.create_abstract_network()[0]

    @functools.cached_property
    def normalisation(self) -> "Normalisation":
        """The normalisation from grey pixels to what the network expects."""
        return self.description.create_normalisation()

    @property
    def mirrored(self) -> bool:
        """Whether its outputs are the means over an image and its mirror image."""
        return self.description.mirrored

    @property
    def facts(self) -> dict[str, Any]:
        """What its outputs depend on, besides its weights: values that JSON can hold."""
        described = self.description
        return {
            "name": described.name,
            "options": described.options,
            "classes": len(described.class_names),
            "preprocessing": described.preprocessing,
            "normalisation": described.normalisation,
            "mirrored": described.mirrored,
        }
