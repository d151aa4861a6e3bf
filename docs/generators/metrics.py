"""Metrics of each component, read from the objects that count them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from prometheus_client.metrics import MetricWrapperBase
from prometheus_client.parser import text_string_to_metric_families

import headrace.control.metrics
import headrace_operator.metrics
from generators.markdown import code, codes, table
from generators.source import constants
from headrace.metrics import node as node_names
from headrace.metrics import runtime as names
from headrace.runtimes.registry import PROFILES
from headrace.serving.engine import Engine, FinishReason
from headrace.serving.metrics import RuntimeMetrics
from headrace.serving.replica import Replica
from headrace_gateway.metrics import GatewayMetrics

Row = tuple[str, str, str, str]

_LABELLED = re.compile(r"(?P<kind>Gauge|Counter)(?: by (?P<labels>[^:]+))?: (?P<meaning>.+)", re.DOTALL)
_DOCSTRING = re.compile(r"(?P<kind>Gauge|Counter|Histogram)(?P<labels>[^:]*): (?P<meaning>.+)", re.DOTALL)


def operator() -> str:
    """Return the metrics of the operator, the reconcile loop's first."""
    modules = (headrace.control.metrics, headrace_operator.metrics)
    return _table(row for module in modules for row in _declared(vars(module).values()))


def gateway() -> str:
    """Return the metrics of the gateway, as one shows them that has had a request."""
    metrics = GatewayMetrics(tuple)
    metrics.unknown.codes[200] += 1
    metrics.unknown.retries["connect-failed"] += 1
    return _table(_exposed(metrics.exposition()).values())


def node() -> str:
    """Return the metrics of the node agent, by their constants."""
    found = ((each.value, _LABELLED.match(each.meaning)) for each in constants(node_names))
    return _table(
        _row(name, match["kind"].lower(), re.findall(r"`(\w+)`", match["labels"] or ""), _capital(match["meaning"]))
        for name, match in found
        if match
    )


def runtime() -> str:
    """Return the metrics of each runtime type: an engine's own by their constants, the others as the shell has them."""
    known = dict(_own()) | _exposed(_shell())
    types: dict[str, list[str]] = {}
    for profile in PROFILES.values():
        for name in profile.metrics:
            types.setdefault(name, []).append(profile.type)
    rows = ((*known[name], codes(types[name])) for name in types)
    return table(("metric", "type", "labels", "meaning", "runtime types"), rows)


def _shell() -> bytes:
    """Return what a runtime without an engine's own metrics shows when it is ready and has had a request."""
    replica = Replica[Engine]()
    replica.ready_seconds = 1.0
    metrics = RuntimeMetrics(replica, "model")
    metrics.succeeded(FinishReason.STOP)
    return metrics.exposition()


def _own() -> Iterator[tuple[str, Row]]:
    """Yield name and row of the constants that can be an engine's own metric, with the labels in its docstring."""
    for each in constants(names):
        if found := _DOCSTRING.match(each.meaning):
            labels = (names.MODEL_LABEL, *re.findall(r"`(\w+)`", found["labels"]))
            row = _row(each.value, found["kind"].lower(), labels, _capital(found["meaning"]))
            yield each.value, row


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]


def _table(rows: Iterable[Row]) -> str:
    return table(("metric", "type", "labels", "meaning"), rows)


def _declared(values: Iterable[object]) -> Iterator[Row]:
    for metric in values:
        if isinstance(metric, MetricWrapperBase):
            labels = metric._labelnames  # noqa: SLF001 - there is no public way to read the labels of an unused metric
            for family in metric.describe():
                yield _row(family.name, family.type, labels, family.documentation)


def _exposed(exposition: bytes) -> dict[str, Row]:
    """Return the metrics by name, without those of every process."""
    found: dict[str, Row] = {}
    for family in text_string_to_metric_families(exposition.decode()):
        if not family.name.startswith("process_") and not family.name.endswith("_created"):
            labels = dict.fromkeys(label for sample in family.samples for label in sample.labels if label != "le")
            found[family.name] = _row(family.name, family.type, labels, family.documentation)
    return found


def _row(name: str, kind: str, labels: Iterable[str], text: str) -> Row:
    shown = f"{name}_total" if kind == "counter" else name
    return code(shown), kind, codes(labels), f"{text.rstrip('.')}."
