"""The gateway's metrics: plain numbers, counted on the path of a request and collected on a scrape.

Label values come from routes and statuses, never from clients, and are bounded anyway: models beyond
`MAX_LABELLED_MODELS` are summed up as `other`.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from typing_extensions import override

if TYPE_CHECKING:
    from headrace_gateway.model import ServedModel

REQUESTS = "headrace_gateway_requests"
"""Counter by `code`: requests that ended; 499 means that the client disconnected. Unknown models are `model=""`."""
HELD = "headrace_gateway_held_requests"
"""Gauge: requests that wait for a replica."""
WAKES = "headrace_gateway_wakes"
"""Counter: how often a request began to wait for a model without a replica (one wake, however many wait)."""
IN_FLIGHT = "headrace_gateway_in_flight_requests"
"""Gauge: requests in flight at a replica."""
REPLICAS = "headrace_gateway_admitted_replicas"
"""Gauge: replicas that requests are routed to."""
FIRST_BYTE_SECONDS = "headrace_gateway_time_to_first_byte_seconds"
"""Histogram: from the request's head to the first byte of the model's answer."""
ADDED_SECONDS = "headrace_gateway_added_seconds"
"""Histogram: the part of it spent in the gateway itself, neither held nor waiting for the replica."""
QUEUE_SECONDS = "headrace_gateway_queue_seconds"
"""Histogram: how long held requests waited."""
RECEIVED_BYTES = "headrace_gateway_received_bytes"
"""Counter: bodies of requests."""
SENT_BYTES = "headrace_gateway_sent_bytes"
"""Counter: bodies of answers."""
RETRIES = "headrace_gateway_retries"
"""Counter by `cause`: connect-failed, connection-lost, stale-connection, or the replica's reason (Draining, ...)."""

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
MAX_LABELLED_MODELS = 1000
OTHER = "other"

LATENCY_BOUNDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
ADDED_BOUNDS = (0.0001, 0.0002, 0.0003, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.05, 0.1)


class Distribution:
    """A histogram; an observation costs one bisection."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        """Count one value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def merge(self, other: Distribution) -> None:
        """Add another's counts."""
        self.counts = [mine + theirs for mine, theirs in zip(self.counts, other.counts, strict=True)]
        self.total += other.total

    def buckets(self) -> list[tuple[str, float]]:
        """Return cumulative counts by upper bound, as Prometheus has them."""
        cumulative, result = 0, []
        for bound, count in zip((*map(str, self.bounds), "+Inf"), self.counts, strict=True):
            cumulative += count
            result.append((bound, float(cumulative)))
        return result


class ModelMetrics:
    """The counts of one model."""

    def __init__(self) -> None:
        self.codes: Counter[int] = Counter()
        self.retries: Counter[str] = Counter()
        self.wakes = 0
        self.received_bytes = 0
        self.sent_bytes = 0
        self.first_byte = Distribution(LATENCY_BOUNDS)
        self.added = Distribution(ADDED_BOUNDS)
        self.queued = Distribution(LATENCY_BOUNDS)

    def merge(self, other: ModelMetrics) -> None:
        """Add another's counts."""
        self.codes += other.codes
        self.retries += other.retries
        self.wakes += other.wakes
        self.received_bytes += other.received_bytes
        self.sent_bytes += other.sent_bytes
        for name in ("first_byte", "added", "queued"):
            getattr(self, name).merge(getattr(other, name))


class GatewayMetrics:
    """The registry of one gateway."""

    def __init__(self, models: Callable[[], Iterable[ServedModel]]) -> None:
        self.unknown = ModelMetrics()
        """Requests for unknown models."""
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        self._registry.register(_GatewayCollector(models, self.unknown))

    def exposition(self) -> bytes:
        """Return the metrics in Prometheus' text format."""
        return generate_latest(self._registry)


class _Row:
    """The values of one pair of labels."""

    def __init__(self, namespace: str, model: str) -> None:
        self.labels = (namespace, model)
        self.metrics = ModelMetrics()
        self.held = 0
        self.in_flight = 0
        self.replicas = 0


_Read = Callable[[_Row], float]
_GAUGES: tuple[tuple[str, str, _Read], ...] = (
    (HELD, "Requests that wait for a replica.", lambda row: row.held),
    (IN_FLIGHT, "Requests in flight to a replica.", lambda row: row.in_flight),
    (REPLICAS, "Replicas that requests are routed to.", lambda row: row.replicas),
)
_COUNTERS: tuple[tuple[str, str, _Read], ...] = (
    (
        WAKES,
        "Requests that began to wait, first in the queue, while no replica was admitted.",
        lambda row: row.metrics.wakes,
    ),
    (RECEIVED_BYTES, "Bodies of requests.", lambda row: row.metrics.received_bytes),
    (SENT_BYTES, "Bodies of answers.", lambda row: row.metrics.sent_bytes),
)


class _GatewayCollector(Collector):
    def __init__(self, models: Callable[[], Iterable[ServedModel]], unknown: ModelMetrics) -> None:
        self._models = models
        self._unknown = unknown

    def describe(self) -> Iterable[Metric]:
        return ()  # nothing is known before the first model is

    @override
    def collect(self) -> Iterator[Metric]:
        rows = self._rows()
        labels = ("namespace", "model")
        for name, text, gauge in _GAUGES:
            gauges = GaugeMetricFamily(name, text, labels=labels)
            for row in rows:
                gauges.add_metric(row.labels, gauge(row))
            yield gauges
        for name, text, count in _COUNTERS:
            counters = CounterMetricFamily(name, text, labels=labels)
            for row in rows:
                counters.add_metric(row.labels, count(row))
            yield counters
        requests = CounterMetricFamily(REQUESTS, "Requests that ended.", labels=(*labels, "code"))
        retries = CounterMetricFamily(RETRIES, "Retries of requests.", labels=(*labels, "cause"))
        for row in rows:
            for code, value in row.metrics.codes.items():
                requests.add_metric((*row.labels, str(code)), value)
            for cause, value in row.metrics.retries.items():
                retries.add_metric((*row.labels, cause), value)
        yield requests
        yield retries
        yield from _histograms(rows, labels)

    def _rows(self) -> list[_Row]:
        unknown, other = _Row("", ""), _Row(OTHER, OTHER)
        unknown.metrics = self._unknown
        rows = [unknown]
        for model in self._models():
            if len(rows) <= MAX_LABELLED_MODELS:
                row = _Row(model.namespace, model.route.public_name if model.route is not None else model.name)
                rows.append(row)
            else:
                row = other
            row.metrics.merge(model.metrics)
            row.held += len(model.queue)
            row.in_flight += model.in_flight
            row.replicas += sum(replica.admitted for replica in model.replicas.values())
        return [*rows, other] if len(rows) > MAX_LABELLED_MODELS else rows


def _histograms(rows: list[_Row], labels: tuple[str, str]) -> Iterator[Metric]:
    for name, text, field in (
        (FIRST_BYTE_SECONDS, "From the request to the first byte of the answer.", "first_byte"),
        (ADDED_SECONDS, "Time spent in the gateway itself.", "added"),
        (QUEUE_SECONDS, "How long held requests waited.", "queued"),
    ):
        family = HistogramMetricFamily(name, text, labels=labels)
        for row in rows:
            distribution: Distribution = getattr(row.metrics, field)
            family.add_metric(row.labels, buckets=distribution.buckets(), sum_value=distribution.total)
        yield family
