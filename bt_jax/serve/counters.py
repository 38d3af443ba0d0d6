"""The metrics of the server for Prometheus. None of them reveals what an image shows."""

from collections.abc import Callable, Mapping

import prometheus_client
from prometheus_client import exposition

_BOUNDS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)  # seconds
CONTENT_TYPE = exposition.CONTENT_TYPE_PLAIN_0_0_4

prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]


class Counters:
    """Counters, latencies and gauges of one server. Thread-safe.

    Attributes:
      slices: predicted slices.
      errors: files that could not be read.
      heat_maps: computed heat maps.
      refused: requests refused because the server was busy.

    Args:
      gauges: functions that read the current values of gauges, by name.
    """

    def __init__(self, gauges: Mapping[str, Callable[[], float]]):
        self._registry = prometheus_client.CollectorRegistry()
        self.slices = self._add_counter("slices", "Predicted slices.")
        self.errors = self._add_counter("errors", "Files that could not be read.")
        self.heat_maps = self._add_counter("heat_maps", "Computed heat maps.")
        self.refused = self._add_counter("refused", "Requests refused because the server was busy.")
        self._requests = self._add_counter("requests", "Answered requests.", "route", "status")
        self._seconds = prometheus_client.Histogram(
            "request_seconds",
            "Time to answer a request in seconds.",
            ["route"],
            namespace="bt_jax",
            registry=self._registry,
            buckets=_BOUNDS,
        )
        for name, read in gauges.items():
            gauge = prometheus_client.Gauge(
                name, f"{name.replace('_', ' ').capitalize()}.", namespace="bt_jax", registry=self._registry
            )
            gauge.set_function(read)

    def _add_counter(self, name: str, text: str, *labels: str) -> prometheus_client.Counter:
        return prometheus_client.Counter(name, text, labels, namespace="bt_jax", registry=self._registry)

    def count_request(self, *, route: str, status: int, seconds: float) -> None:
        """Counts an answered request and its time."""
        self._requests.labels(route, str(status)).inc()
        self._seconds.labels(route).observe(seconds)

    def format(self) -> bytes:
        """Formats all metrics in the text format of Prometheus, version 0.0.4."""
        return prometheus_client.generate_latest(self._registry)
