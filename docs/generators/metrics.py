"""Metrics of each component, read from the objects that count them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from prometheus_client.metrics import MetricWrapperBase
from prometheus_client.parser import text_string_to_metric_families

import headrace.control.metrics
import headrace_operator.metrics
from generators.markdown import code, codes, table
from headrace.serving.engine import Engine, FinishReason
from headrace.serving.metrics import RuntimeMetrics
from headrace.serving.replica import Replica
from headrace_gateway.metrics import GatewayMetrics

Row = tuple[str, str, str, str]


def operator() -> str:
    """Return the metrics of the operator, the reconcile loop's first."""
    modules = (headrace.control.metrics, headrace_operator.metrics)
    return _table(row for module in modules for row in _declared(vars(module).values()))


def gateway() -> str:
    """Return the metrics of the gateway, as one shows them that has had a request."""
    metrics = GatewayMetrics(tuple)
    metrics.unknown.codes[200] += 1
    metrics.unknown.retries["connect-failed"] += 1
    return _table(_exposed(metrics.exposition()))


def runtime() -> str:
    """Return the metrics of a runtime, as one shows them that is ready and has had a request."""
    replica = Replica[Engine]()
    replica.ready_seconds = 1.0
    metrics = RuntimeMetrics(replica, "model")
    metrics.ended(1.0, [FinishReason.STOP])
    return _table(_exposed(metrics.exposition()))


def _table(rows: Iterable[Row]) -> str:
    return table(("metric", "type", "labels", "meaning"), rows)


def _declared(values: Iterable[object]) -> Iterator[Row]:
    for metric in values:
        if isinstance(metric, MetricWrapperBase):
            labels = metric._labelnames  # noqa: SLF001 - there is no public way to read the labels of an unused metric
            for family in metric.describe():
                yield _row(family.name, family.type, labels, family.documentation)


def _exposed(exposition: bytes) -> Iterator[Row]:
    for family in text_string_to_metric_families(exposition.decode()):
        if not family.name.startswith("process_") and not family.name.endswith("_created"):
            labels = dict.fromkeys(label for sample in family.samples for label in sample.labels if label != "le")
            yield _row(family.name, family.type, labels, family.documentation)


def _row(name: str, kind: str, labels: Iterable[str], text: str) -> Row:
    shown = f"{name}_total" if kind == "counter" else name
    return code(shown), kind, codes(labels), f"{text.rstrip('.')}."
