"""The agent's metrics: numbers that its parts count anyway, collected on a scrape."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from typing_extensions import override

from headrace.metrics import node as names
from headrace_node.server import AgentServer
from headrace_node.volumes import Volumes


class NodeMetrics(Collector):
    """Exports the state of the agent's parts."""

    def __init__(self, server: AgentServer, volumes: Volumes) -> None:
        self._server = server
        self._volumes = volumes
        self._registry = CollectorRegistry()
        self._registry.register(self)
        ProcessCollector(registry=self._registry)

    def exposition(self) -> bytes:
        """Return all metrics in Prometheus' text format."""
        return generate_latest(self._registry)

    @override
    def collect(self) -> Iterable[Metric]:
        """Yield the metrics."""
        yield _by_tenant(names.VOLUMES, "Volumes of pods", (volume.namespace for volume in self._volumes))
        yield _by_tenant(names.SESSIONS, "Connected clients", (each.tenant for each in self._server.sessions))


def _by_tenant(name: str, text: str, tenants: Iterable[str]) -> Metric:
    gauge = GaugeMetricFamily(name, text, labels=[names.TENANT_LABEL])
    for tenant, count in sorted(Counter(tenants).items()):
        gauge.add_metric([tenant], count)
    return gauge
