"""The model behind the server: batched predictions, single heat maps, and compilation in the background."""

import contextlib
import threading
import time
from typing import NamedTuple

import numpy as np

from bt_jax.data.io.slices import Slice
from bt_jax.inference import heat_map_files
from bt_jax.inference.heat_map_files import HeatMap
from bt_jax.inference.predictor import Prediction, Predictor, PreparedSlice
from bt_jax.serve.batching import Batcher, BusyError

_SECONDS_TO_CLOSE = 2.0


class _HeatMapRequest(NamedTuple):
    """An image and the class to explain."""

    image: np.ndarray
    label: str
    method: str


class Engine:
    """Runs the model for requests. Thread-safe.

    Args:
      predictor: loaded with `batch_size`.
      batch_size: slices in the largest step.
      capacity: number of slices that may wait.
    """

    def __init__(self, predictor: Predictor, *, batch_size: int = 16, capacity: int = 256):
        self.predictor = predictor
        # Step sizes; only those whose programs are compiled are in use.
        self._sizes = [1 << k for k in range(batch_size.bit_length()) if 1 << k < batch_size] + [batch_size]
        self._ready: list[int] = []
        self._stopping = threading.Event()
        self._warming = threading.Thread(target=self._warm_up, name="warm-up")
        self.predictions: Batcher[PreparedSlice, Prediction] = Batcher(
            self._predict, most=lambda: max(self._ready, default=1), capacity=capacity, name="predictions"
        )
        self.heat_maps: Batcher[_HeatMapRequest, HeatMap] = Batcher(
            self._explain, most=lambda: 1, capacity=max(1, capacity // 8), name="heat maps"
        )

    def start(self) -> None:
        """Compiles the program for one slice, and starts compiling the others in the background."""
        self._compile(self._sizes[0])
        self._warming.start()

    @property
    def warm(self) -> bool:
        """Whether all programs are compiled."""
        return len(self._ready) == len(self._sizes) and not self._warming.is_alive()

    def predict(self, slices: list[PreparedSlice], *, deadline: float, patient: bool = False) -> list[Prediction]:
        """Predicts slices; see `Batcher.submit`."""
        return self.predictions.submit(slices, deadline=deadline, patient=patient)

    def explain(self, image: np.ndarray, *, label: str, method: str, deadline: float) -> HeatMap:
        """Computes the heat map of an image [H, W] uint8 or uint16."""
        return self.heat_maps.submit([_HeatMapRequest(image, label, method)], deadline=deadline)[0]

    def close(self) -> None:
        """Finishes the waiting work and ends the threads; the compiler cannot be stopped and is not waited for long."""
        self._stopping.set()
        self.predictions.close(seconds=_SECONDS_TO_CLOSE)
        self.heat_maps.close(seconds=_SECONDS_TO_CLOSE)

    def _predict(self, slices: list[PreparedSlice]) -> list[Prediction]:
        rows = next((size for size in self._ready if size >= len(slices)), len(slices))
        return self.predictor.predict(slices, rows=rows)

    def _explain(self, questions: list[_HeatMapRequest]) -> list[HeatMap]:
        return [
            heat_map_files.explain_image(self.predictor, image, label=label, method=method)
            for image, label, method in questions
        ]

    def _compile(self, size: int) -> None:
        nothing = self.predictor.prepare(_NOTHING)
        self.predictor.predict([nothing] * size, rows=size)
        self._ready.append(size)

    def _warm_up(self) -> None:
        for size in self._sizes[1:]:
            if self._stopping.is_set():
                return
            self._compile(size)
        if self.predictor.methods and not self._stopping.is_set():
            label = self.predictor.class_names[0]
            with contextlib.suppress(BusyError):  # closed meanwhile
                self.explain(_NOTHING.image, label=label, method="gradcam", deadline=time.monotonic() + 600)


_NOTHING = Slice(np.zeros((64, 64), np.uint8))
