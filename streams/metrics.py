"""Metrics: what a worker counts and measures about itself, for Prometheus.

Counting costs a dictionary's increment for each batch, whether anybody asks or not. They are served only where
`metrics:` stands in `crossdock.yaml`, and only then is Prometheus' client imported. No label ever holds data of a
record.

| metric                            | means                                                                        |
|-----------------------------------|------------------------------------------------------------------------------|
| `crossdock_loop_lag_seconds`      | how late the event loop was at worst, of the last looks                      |
| `crossdock_oldest_open_seconds`   | age of the oldest batch of a group that is delivered and not acknowledged    |
| `crossdock_open_records`          | records of a group that are delivered and not acknowledged                   |
| `crossdock_silence_seconds`       | how long the quietest lane or source task has done nothing while it should   |
| `crossdock_commits_total`         | commits of a group, by outcome: done, refused                                |
| `crossdock_events_total`          | events by pipeline, stage and what became of them; repeats are counted again |
"""

import contextlib
import logging
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric

log = logging.getLogger("crossdock.streams.metrics")

Labels = tuple[str, ...]

_GAUGES: Mapping[str, tuple[str, Labels]] = {
    "crossdock_loop_lag_seconds": ("How late the event loop was at worst, of the last looks.", ()),
    "crossdock_oldest_open_seconds": ("Age of the oldest batch that is not acknowledged.", ("group",)),
    "crossdock_open_records": ("Records that are delivered and not acknowledged.", ("group",)),
    "crossdock_silence_seconds": ("How long the quietest lane or source task has done nothing.", ()),
}
_COUNTERS: Mapping[str, tuple[str, Labels]] = {
    "crossdock_commits": ("Commits of a group.", ("group", "outcome")),
    "crossdock_events": ("Events by what became of them.", ("pipeline", "stage", "outcome")),
}
NEIGHBOURS = 16
"""Workers of one machine that find a port of their own."""


class Metrics:
    """Those of one worker."""

    def __init__(self) -> None:
        self._gauges: dict[tuple[str, Labels], float] = {}
        self._counts: Counter[tuple[str, Labels]] = Counter()

    def measure(self, name: str, value: float, *labels: str) -> None:
        """Sets a gauge."""
        self._gauges[name, labels] = value

    def count(self, name: str, by: int, *labels: str) -> None:
        """Adds to a counter."""
        self._counts[name, labels] += by

    def settled(self, pipeline: str, stage: str, outcomes: Mapping[str, int]) -> None:
        """What became of the events of one batch."""
        for outcome, number in outcomes.items():
            self.count("crossdock_events", number, pipeline, stage, outcome)

    def value(self, name: str, *labels: str) -> float:
        """The present value; 0 if nothing was ever said about it."""
        return self._gauges.get((name, labels), 0.0) + self._counts[name, labels]

    def collect(self) -> "Iterator[Metric]":
        """For Prometheus' client, in a thread of its own."""
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        for family, kinds, values in (
            (GaugeMetricFamily, _GAUGES, dict(self._gauges)),
            (CounterMetricFamily, _COUNTERS, dict(self._counts)),
        ):
            for name, (text, label_names) in kinds.items():
                metric = family(name, text, labels=label_names)
                for (of, labels), value in values.items():
                    if of == name:
                        metric.add_metric(labels, value)
                yield metric

    def serve(self, port: int) -> int:
        """Answers `GET /metrics` on the loopback address, in a thread, for as long as the process lives.

        Returns:
            The port: the first that is free of the given one and the next ones, as workers of one machine share a file.

        Raises:
            OSError: all of them are taken.
        """
        from prometheus_client import CollectorRegistry, start_http_server

        registry = CollectorRegistry()
        registry.register(self)
        for candidate in range(port, port + NEIGHBOURS):
            with contextlib.suppress(OSError):
                start_http_server(candidate, "127.0.0.1", registry)
                log.info("metrics.served address=http://127.0.0.1:%d/metrics", candidate)
                return candidate
        raise OSError(f"ports {port} to {port + NEIGHBOURS - 1} on 127.0.0.1 are in use")


METRICS = Metrics()
"""Those of this process."""
