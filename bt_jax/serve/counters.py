"""What the server counts, in the text format of Prometheus. Nothing of it tells what an image shows."""

import bisect
import collections
import threading
from collections.abc import Iterable, Mapping

# Upper bounds of the seconds that requests took.
_BOUNDS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_PREFIX = "bt_jax_"
Labels = tuple[tuple[str, str], ...]


class Counters:
    """Counts by name and labels, and the seconds of requests; from any number of threads."""

    def __init__(self) -> None:
        self._turn = threading.Lock()
        self._counts: dict[tuple[str, Labels], int] = collections.defaultdict(int)
        self._seconds: dict[str, list[int]] = {}  # by route: requests up to each bound, the last without one
        self._total: dict[str, float] = collections.defaultdict(float)

    def count(self, name: str, number: int = 1, /, **labels: str) -> None:
        """Adds to a count."""
        with self._turn:
            self._counts[name, tuple(sorted(labels.items()))] += number

    def request(self, *, route: str, status: int, seconds: float) -> None:
        """Counts a request that was answered."""
        self.count("requests_total", route=route, status=str(status))
        with self._turn:
            buckets = self._seconds.setdefault(route, [0] * (len(_BOUNDS) + 1))
            buckets[bisect.bisect_left(_BOUNDS, seconds)] += 1
            self._total[route] += seconds

    def text(self, gauges: Mapping[str, float]) -> str:
        """All of them, and some values of the moment."""
        with self._turn:
            lines = [
                *self._counted(),
                *self._timed(),
                *(line for name, value in gauges.items() for line in _family(name, "gauge", [(name, (), value)])),
            ]
        return "\n".join(lines) + "\n"

    def _counted(self) -> Iterable[str]:
        for name in sorted({name for name, _ in self._counts}):
            rows = sorted((labels, count) for (other, labels), count in self._counts.items() if other == name)
            yield from _family(name, "counter", [(name, labels, count) for labels, count in rows])

    def _timed(self) -> Iterable[str]:
        name = "request_seconds"
        rows: list[tuple[str, Labels, float]] = []
        for route, buckets in sorted(self._seconds.items()):
            total = 0
            for bound, count in zip((*_BOUNDS, "+Inf"), buckets, strict=True):
                total += count
                rows.append((f"{name}_bucket", (("le", str(bound)), ("route", route)), total))
            rows.append((f"{name}_sum", (("route", route),), self._total[route]))
            rows.append((f"{name}_count", (("route", route),), total))
        yield from _family(name, "histogram", rows)


def _family(name: str, kind: str, rows: Iterable[tuple[str, Labels, float]]) -> Iterable[str]:
    yield f"# TYPE {_PREFIX}{name} {kind}"
    for full, labels, value in rows:
        inside = ",".join(f'{label}="{_escaped(text)}"' for label, text in labels)
        yield f"{_PREFIX}{full}{{{inside}}} {value:.9g}" if inside else f"{_PREFIX}{full} {value:.9g}"


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
