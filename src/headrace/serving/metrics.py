"""Prometheus metrics of a runtime server. The engine is read during a scrape, so metrics cost a step nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
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
TOKEN_LATENCY_BUCKETS = (0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
TOKEN_COUNT_BUCKETS = (1, 8, 32, 128, 512, 1024, 2048, 4096, 8192, 16384, 32768)
LATENCY_BUCKETS = (0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 60.0, 120.0, 300.0)


class RuntimeMetrics:
    """The metrics of one server, in their own registry."""

    def __init__(self, replica: Replica[Any], model: str) -> None:
        self.replica = replica
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        self._registry.register(_ReplicaCollector(replica, model))
        labels = (names.MODEL_LABEL,)

        def histogram(name: str, text: str, buckets: Sequence[float]) -> Histogram:
            return Histogram(name, text, labels, registry=self._registry, buckets=buckets).labels(model)

        self.first_token = histogram(
            names.TIME_TO_FIRST_TOKEN, "From the request's arrival to its first token.", FIRST_TOKEN_BUCKETS
        )
        self.between_tokens = histogram(
            names.INTER_TOKEN_LATENCY, "Between two steps of one answer.", TOKEN_LATENCY_BUCKETS
        )
        self.latency = histogram(
            names.REQUEST_LATENCY, "From the request's arrival to the end of its answer.", LATENCY_BUCKETS
        )
        self.decode_time = histogram(
            names.REQUEST_DECODE_TIME, "From a request's first token to its last.", LATENCY_BUCKETS
        )
        self.prompt_tokens = histogram(
            names.REQUEST_PROMPT_TOKENS, "Tokens of the prompts of a request.", TOKEN_COUNT_BUCKETS
        )
        self.generation_tokens = histogram(
            names.REQUEST_GENERATION_TOKENS, "Tokens of the answers to a request.", TOKEN_COUNT_BUCKETS
        )
        self._model = model
        self._success = Counter(
            names.REQUEST_SUCCESS, "Complete answers.", (*labels, "finished_reason"), registry=self._registry
        )

    def succeeded(self, reason: FinishReason) -> None:
        """Count a complete answer."""
        self._success.labels(self._model, reason.value).inc()

    def exposition(self) -> bytes:
        """Return all metrics in Prometheus' text format."""
        return generate_latest(self._registry)


class RequestTimes:
    """Records the times and tokens of one request."""

    def __init__(self, metrics: RuntimeMetrics, seconds: Callable[[], float]) -> None:
        self._metrics = metrics
        self._seconds = seconds
        """Returns the time since the request's arrival."""
        self._first: float | None = None
        self._last: dict[int, float] = {}
        """By answer: when its last step came."""

    def step(self, index: int) -> None:
        """Record a step of one of the request's answers."""
        now = self._seconds()
        if self._first is None:
            self._first = now
            self._metrics.first_token.observe(now)
            self._metrics.replica.first_token()
        last = self._last.get(index)
        if last is not None:
            self._metrics.between_tokens.observe(now - last)
        self._last[index] = now

    def ended(self, reasons: Sequence[FinishReason], *, prompt_tokens: int, generation_tokens: int) -> None:
        """Record the end, with a reason for each complete answer; without reasons the request was interrupted."""
        self._metrics.latency.observe(self._seconds())
        if self._first is not None:
            self._metrics.decode_time.observe(max(self._last.values()) - self._first)
            self._metrics.prompt_tokens.observe(prompt_tokens)
            self._metrics.generation_tokens.observe(generation_tokens)
        for reason in reasons:
            self._metrics.succeeded(reason)


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
        yield counter(
            self._model,
            names.PREFIX_CACHE_QUERIES,
            "Prompt tokens looked up in the prefix cache.",
            counters.prefix_queries,
        )
        yield counter(
            self._model, names.PREFIX_CACHE_HITS, "Prompt tokens found in the prefix cache.", counters.prefix_hits
        )
        yield counter(self._model, names.PREEMPTIONS, "Requests that were computed again.", counters.preemptions)
        yield counter(self._model, names.DRAFT_TOKENS, "Tokens that speculation proposed.", counters.drafted)
        yield counter(self._model, names.ACCEPTED_TOKENS, "Proposed tokens that were confirmed.", counters.accepted)
        yield counter(self._model, names.STEPS, "Steps of the engine.", counters.steps)
        yield counter(self._model, names.STEP_TOKENS, "Tokens computed in steps.", counters.step_tokens)
        yield counter(
            self._model, names.ADAPTER_TOKENS, "Tokens computed with a LoRA adapter.", counters.adapter_tokens
        )
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
