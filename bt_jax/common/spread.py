"""Mean, median, minimum and maximum of repeated measurements."""

import dataclasses
import statistics
from collections.abc import Sequence

import numpy as np


@dataclasses.dataclass(frozen=True, kw_only=True)
class Spread:
    """Mean, median and range of the values of one quantity, such as an accuracy over several runs.

    Attributes:
      mean: of the values.
      median: of the values.
      low: the smallest value.
      high: the largest value.
    """

    mean: float
    median: float
    low: float
    high: float

    @classmethod
    def from_values(cls, values: Sequence[float]) -> "Spread":
        """Computes the spread of at least one value."""
        return cls(
            mean=float(np.mean(values)),
            median=float(statistics.median(values)),
            low=float(min(values)),
            high=float(max(values)),
        )
