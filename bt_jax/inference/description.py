"""The description of a model: the values that a checkpoint or file stores beside the arrays."""

import dataclasses
import typing
from typing import Any

if typing.TYPE_CHECKING:
    from bt_jax.models.normalise import Normalisation
    from bt_jax.models.registry import Network, Tree


@dataclasses.dataclass(frozen=True)
class ModelDescription:
    """The values that turn a checkpoint's arrays into a usable model, stored as JSON.

    Files of earlier versions do not have `mirrored`, see `TrainedNetwork`.
    """

    name: str
    options: dict[str, Any]
    class_names: tuple[str, ...]
    preprocessing: dict[str, Any]
    normalisation: dict[str, Any]
    weights: str
    weights_sha256: str | None
    synthetic: bool
    mirrored: bool = False

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "ModelDescription":
        """Makes a description from the JSON of `dataclasses.asdict`.

        Raises:
          KeyError, TypeError, ValueError: the values are not those of a description.
        """
        names = values["class_names"]
        if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
            raise TypeError(f"class_names is {names!r}, not a list of names")
        if len(set(names)) != len(names):
            raise ValueError(f"class_names has a name twice: {', '.join(names)}")
        return cls(**{**values, "class_names": tuple(names)})

    def create_network(self, *, seed: int = 0) -> "tuple[Network, Tree, Tree]":
        """Creates the network, with random parameters and initial running statistics."""
        from bt_jax.models import registry  # imports JAX, which an ONNX file does not need; so do those below

        return registry.create(self.name, seed=seed, **self._collect_options())

    def create_abstract_network(self) -> "tuple[Network, Tree, Tree]":
        """Creates the network, with shapes and dtypes in place of parameters and statistics."""
        from bt_jax.models import registry

        return registry.create_abstract(self.name, **self._collect_options())

    def _collect_options(self) -> dict[str, Any]:
        options = {key: tuple(value) if isinstance(value, list) else value for key, value in self.options.items()}
        return {"classes": len(self.class_names), "size": self.preprocessing["size"], **options}

    def create_normalisation(self) -> "Normalisation":
        """Creates the normalisation from grey pixels to the network's input."""
        from bt_jax.models.normalise import Normalisation

        return Normalisation(**{key: tuple(value) for key, value in self.normalisation.items()})
