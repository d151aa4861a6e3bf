"""The agent's metrics: numbers that its parts count anyway, collected on a scrape."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from typing_extensions import override

from headrace.metrics import node as names
from headrace.store.keys import ObjectClass
from headrace_node.bus import AgentBus
from headrace_node.server import AgentServer
from headrace_node.store.objects import ObjectStore
from headrace_node.volumes import Volumes

_ENDPOINT = (names.TENANT_LABEL, names.ENDPOINT_LABEL)
_ByClass = Mapping[tuple[str, ObjectClass], int]


class NodeMetrics(Collector):
    """Exports the state of the agent's parts."""

    def __init__(self, server: AgentServer, volumes: Volumes, store: ObjectStore, bus: AgentBus) -> None:
        self._server = server
        self._volumes = volumes
        self._store = store
        self._bus = bus
        self._registry = CollectorRegistry()
        self._registry.register(self)
        ProcessCollector(registry=self._registry)

    def exposition(self) -> bytes:
        """Return all metrics in Prometheus' text format."""
        return generate_latest(self._registry)

    @override
    def collect(self) -> Iterable[Metric]:
        """Yield the metrics."""
        yield _by_tenant(names.VOLUMES, "Volumes of pods", Counter(each.namespace for each in self._volumes))
        yield _by_tenant(names.SESSIONS, "Connected clients", Counter(each.tenant for each in self._server.sessions))
        yield from self._memory()
        yield from self._counted()
        yield from self._frames()

    def _memory(self) -> Iterable[Metric]:
        self._store.sweep()
        accounts, objects, leases = self._store.accounts, _no_counts(), _no_counts()
        for stored in self._store.objects():
            key = (stored.record.tenant, stored.record.object_class)
            objects[key] += 1
            leases[key] += stored.leases.total()
        limit = accounts.limits.total_bytes
        yield GaugeMetricFamily(names.STORE_LIMIT_BYTES, "Memory that the store may use", limit)
        yield GaugeMetricFamily(names.STORE_POOL_BYTES, "Memory that is ready for objects", self._store.pool.bytes)
        yield _by_class(GaugeMetricFamily, names.STORE_BYTES, "Memory of objects and drafts", accounts.bytes)
        yield _by_class(GaugeMetricFamily, names.STORE_OBJECTS, "Sealed objects", objects)
        yield _by_class(GaugeMetricFamily, names.STORE_LEASES, "Leases of clients", leases)

    def _counted(self) -> Iterable[Metric]:
        counters = self._store.counters
        yield _by_class(CounterMetricFamily, names.STORE_PUTS, "Sealed objects", counters.puts)
        yield _by_class(CounterMetricFamily, names.STORE_HITS, "Requests for a present object", counters.hits)
        yield _by_class(CounterMetricFamily, names.STORE_EVICTIONS, "Evicted objects", counters.evictions)
        misses = CounterMetricFamily(names.STORE_MISSES, "Requests for an absent object", labels=[names.TENANT_LABEL])
        for tenant, count in sorted(counters.misses.items()):
            misses.add_metric([tenant], count)
        yield misses
        populated = CounterMetricFamily(names.STORE_POPULATED, "Memory of new segments", labels=["pages"])
        populated.add_metric(["huge"], self._store.pool.populated.huge)
        populated.add_metric(["small"], self._store.pool.populated.small)
        yield populated
        yield CounterMetricFamily(names.STORE_REAPED, "Drafts of disconnected clients", counters.reaped_drafts)
        yield CounterMetricFamily(names.STORE_ADOPTED, "Objects of the former agent", counters.adopted)

    def _frames(self) -> Iterable[Metric]:
        router, kernel = self._bus.router, list(self._bus.counts())
        ports = Counter(port.tenant for port in router.ports.values())
        yield _by_tenant(names.BUS_ENDPOINTS, "Endpoints of the bus", ports)
        yield GaugeMetricFamily(names.BUS_EBPF, "Whether the bus uses eBPF", int(self._bus.sockmap is not None))
        frames = CounterMetricFamily(names.BUS_KERNEL_FRAMES, "Frames in the kernel", labels=[*_ENDPOINT, "outcome"])
        for counts in kernel:
            if (port := router.ports.get(counts.id)) is not None:
                for outcome in ("redirected", "passed", "forged", "received"):
                    frames.add_metric([port.tenant, f"{counts.id:08x}", outcome], getattr(counts, outcome))
        yield frames
        forwarded = CounterMetricFamily(names.BUS_FORWARDED, "Frames forwarded in user space", labels=["to"])
        for to, count in sorted(router.forwarded.items()):
            forwarded.add_metric([to], count)
        yield forwarded
        errors = CounterMetricFamily(names.BUS_ERRORS, "Frames that were not delivered", labels=["reason"])
        for code, count in sorted(router.errors.items()):
            errors.add_metric([code.name.lower()], count)
        yield errors


def _no_counts() -> Counter[tuple[str, ObjectClass]]:
    return Counter()


def _by_tenant(name: str, text: str, counts: Mapping[str, int]) -> Metric:
    gauge = GaugeMetricFamily(name, text, labels=[names.TENANT_LABEL])
    for tenant, count in sorted(counts.items()):
        gauge.add_metric([tenant], count)
    return gauge


def _by_class(kind: type[GaugeMetricFamily | CounterMetricFamily], name: str, text: str, counts: _ByClass) -> Metric:
    family = kind(name, text, labels=[names.TENANT_LABEL, names.CLASS_LABEL])
    for (tenant, object_class), count in sorted(counts.items()):
        family.add_metric([tenant, object_class], count)
    return family
