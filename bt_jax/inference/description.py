"""The description of a model: what a checkpoint or file must hold beside the arrays."""

import dataclasses
from typing import Any

from bt_jax.models import registry
from bt_jax.models.normalise import Normalisation
from bt_jax.models.registry import Network, Tree


@dataclasses.dataclass(frozen=True)
class ModelDescription:
    """All that a checkpoint must say for its arrays to become a usable model; plain values, kept as JSON."""

    name: str
    options: dict[str, Any]
    class_names: tuple[str, ...]
    preprocessing: dict[str, Any]
    normalisation: dict[str, Any]
    weights: str
    weights_sha256: str | None
    synthetic: bool

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "ModelDescription":
        """The inverse of `dataclasses.asdict`, after a trip through JSON."""
        return cls(**{**values, "class_names": tuple(values["class_names"])})

    def create_network(self, *, seed: int = 0) -> tuple[Network, Tree, Tree]:
        """The network with random parameters and statistics."""
        return registry.create(self.name, seed=seed, **self._collect_options())

    def create_abstract_network(self) -> tuple[Network, Tree, Tree]:
        """The network with shapes and dtypes for its parameters and statistics."""
        return registry.create_abstract(self.name, **self._collect_options())

    def _collect_options(self) -> dict[str, Any]:
        options = {key: tuple(value) if isinstance(value, list) else value for key, value in self.options.items()}
        return {"classes": len(self.class_names), "size": self.preprocessing["size"], **options}

    def create_normalisation(self) -> Normalisation:
        """From grey pixels to what the network expects."""
        return Normalisation(**{key: tuple(value) for key, value in self.normalisation.items()})
