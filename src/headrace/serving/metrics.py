"""Prometheus metrics of a runtime server. The engine is read during a scrape, so metrics cost a step nothing."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from typing_extensions import override

from headrace.events.messages import ReplicaState
from headrace.metrics import runtime as names
from headrace.serving.engine import EngineCounters, FinishReason
from headrace.serving.replica import Replica

CONTENT_TYPE = b"text/plain; version=0.0.4; charset=utf-8"
FIRST_TOKEN_BUCKETS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
LATENCY_BUCKETS = (0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 60.0, 120.0, 300.0)


class RuntimeMetrics:
    """The metrics of one server, in their own registry."""

    def __init__(self, replica: Replica[Any], model: str) -> None:
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        self._registry.register(_ReplicaCollector(replica, model))
        labels = (names.MODEL_LABEL,)
        self._first_token = Histogram(
            names.TIME_TO_FIRST_TOKEN,
            "From the request's arrival to its first token.",
            labels,
            registry=self._registry,
            buckets=FIRST_TOKEN_BUCKETS,
        ).labels(model)
        self._latency = Histogram(
            names.REQUEST_LATENCY,
            "From the request's arrival to the end of its answer.",
            labels,
            registry=self._registry,
            buckets=LATENCY_BUCKETS,
        ).labels(model)
        self._model = model
        self._success = Counter(
            names.REQUEST_SUCCESS, "Complete answers.", (*labels, "finished_reason"), registry=self._registry
        )

    def first_token(self, seconds: float) -> None:
        """Record the time from a request's arrival to its first token."""
        self._first_token.observe(seconds)

    def ended(self, seconds: float, reasons: Iterable[FinishReason]) -> None:
        """Record the end of a request, with a reason for each complete answer; without reasons it was interrupted."""
        self._latency.observe(seconds)
        for reason in reasons:
            self._success.labels(self._model, reason.value).inc()

    def exposition(self) -> bytes:
        """Return all metrics in Prometheus' text format."""
        return generate_latest(self._registry)


class _ReplicaCollector(Collector):
    def __init__(self, replica: Replica[Any], model: str) -> None:
        self._replica = replica
        self._model = model

    @override
    def collect(self) -> Iterator[Metric]:
        replica, load = self._replica, self._replica.load()
        state = GaugeMetricFamily(names.STATE, "1 for the present state.", labels=(names.MODEL_LABEL, "state"))
        for each in ReplicaState:
            state.add_metric((self._model, each.value), float(each is replica.status.state))
        yield state
        if replica.ready_seconds is not None:
            yield gauge(
                self._model, names.READY_SECONDS, "From the server's first moment to Ready.", replica.ready_seconds
            )
        yield gauge(self._model, names.REQUESTS_RUNNING, "Requests that get tokens.", load.running)
        yield gauge(self._model, names.REQUESTS_WAITING, "Requests that wait for a slot.", load.queued)
        usage = load.kv_tokens_used / max(load.kv_tokens_total, 1)
        yield gauge(self._model, names.KV_CACHE_USAGE, "Share of the KV cache in use, 0 to 1.", usage)
        yield gauge(self._model, names.STEP_SECONDS, "Smoothed time of one step.", load.step_milliseconds / 1000)
        yield gauge(self._model, names.TOKENS_PER_SECOND, "Smoothed rate of generated tokens.", load.tokens_per_second)
        counters = replica.engine.counters if replica.engine is not None else EngineCounters()
        yield counter(self._model, names.PROMPT_TOKENS, "Tokens of prompts.", counters.prompt_tokens)
        yield counter(self._model, names.GENERATION_TOKENS, "Tokens generated.", counters.generated_tokens)
        yield counter(self._model, names.STEPS, "Steps of the engine.", counters.steps)
        yield counter(self._model, names.STEP_TOKENS, "Tokens computed in steps.", counters.step_tokens)
        yield counter(self._model, names.CANCELLED, "Requests that ended early.", counters.cancelled)
        if replica.engine is not None:
            yield from replica.engine.metrics(self._model)


def gauge(model: str, name: str, text: str, value: float) -> Metric:
    """Return a gauge of one model."""
    family = GaugeMetricFamily(name, text, labels=(names.MODEL_LABEL,))
    family.add_metric((model,), value)
    return family


def counter(model: str, name: str, text: str, value: float) -> Metric:
    """Return a counter of one model."""
    family = CounterMetricFamily(name, text, labels=(names.MODEL_LABEL,))
    family.add_metric((model,), value)
    return family
