"""What every exported file stores beside a network: description, temperature, confidence limit and OOD models.

The files hold it as fields of JSON and as arrays, see `model_file` and `onnx_graph`.
"""

import collections
import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from bt_jax.common.errors import UsageError
from bt_jax.inference.ood import OodModel
from bt_jax.metrics.calibration import Temperature
from bt_jax.metrics.selective import ConfidenceLimit

SCHEMA = 1
_OOD = "doubts"


@dataclasses.dataclass(frozen=True)
class ModelHeader:
    """What a file stores beside its networks or program.

    Attributes:
      description: of all its networks, the fields of `ModelDescription`.
      temperature: None if none was stored.
      ood_models: one for each network, or empty.
      confidence_limit: None if it was not measured.
    """

    description: Mapping[str, Any]
    temperature: Temperature | None
    ood_models: Sequence[OodModel]
    confidence_limit: ConfidenceLimit | None = None

    def to_fields(self) -> dict[str, Any]:
        """Converts all but the OOD models to fields of JSON."""
        return {
            "schema": SCHEMA,
            **self.description,
            "temperature": dataclasses.asdict(self.temperature) if self.temperature else None,
            "confidence_limit": dataclasses.asdict(self.confidence_limit) if self.confidence_limit else None,
        }

    def list_arrays(self) -> dict[str, np.ndarray]:
        """Lists the arrays of the OOD models by their names in a file, such as `doubts.0.centre`."""
        return {
            f"{_OOD}.{number}.{name}": np.array(array, order="C")
            for number, ood_model in enumerate(self.ood_models)
            for name, array in ood_model.to_arrays().items()
        }


def parse(fields: Mapping[str, Any], arrays: Mapping[str, np.ndarray], *, path: pathlib.Path) -> ModelHeader:
    """Inverts `ModelHeader.to_fields` and `list_arrays`; arrays with other names are ignored.

    Raises:
      UsageError: another version of the package wrote the file.
      KeyError, TypeError, ValueError: the fields or arrays are not those of a header.
    """
    rest = dict(fields)
    if rest.pop("schema") != SCHEMA:
        raise UsageError(f"{path} was written by another version of bt_jax: export the model again with this version")
    temperature, limit = rest.pop("temperature"), rest.pop("confidence_limit", None)  # earlier files have no limit
    by_number: dict[str, dict[str, np.ndarray]] = collections.defaultdict(dict)
    for name, array in arrays.items():
        kind, _, member = name.partition(".")
        if kind == _OOD:
            number, _, own = member.partition(".")
            by_number[number][own] = array
    return ModelHeader(
        description=rest,
        temperature=Temperature(**temperature) if temperature else None,
        ood_models=[OodModel.from_arrays(by_number[str(number)]) for number in range(len(by_number))],
        confidence_limit=ConfidenceLimit(**limit) if limit else None,
    )


def make_damage_error(path: pathlib.Path, error: Exception) -> UsageError:
    """Makes the error for a file that its reader could not parse."""
    reason = shorten(error)
    return UsageError(f"{path} is damaged, or bt_jax.export did not write it ({type(error).__name__}: {reason})")


def shorten(error: Exception) -> str:
    """Returns the message of an error in one line of at most 200 characters."""
    return " ".join(str(error).split())[:200]
