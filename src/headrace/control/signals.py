"""Signals of the reconcile loop: the newest message of every sender, and the live gateways.

Messages carry state, so only the newest one is kept. Messages expire only while NATS is connected: an unavailable
broker does not mean that gateways and replicas have failed, so each sender gets a full time to live after a
reconnection.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js.kv import KV_OP

from headrace.api.vocabulary import MODEL_DEPLOYMENT
from headrace.events import subjects
from headrace.events.decoder import Decoder
from headrace.events.messages import Admission, Announcement, Demand, FetchProgress, ReplicaReport, ReplicaState
from headrace.reconcile.world import ResourceKey, Signals

REPLICA_TTL_SECONDS = 10.0
"""Ten missed reports: the process hangs or has exited, regardless of the pod's status."""


@dataclass(slots=True)
class _Received:
    """Messages about one resource; the floats are monotonic times of arrival."""

    demand: dict[str, tuple[float, Demand]] = field(default_factory=dict)
    replicas: dict[str, tuple[float, ReplicaReport]] = field(default_factory=dict)
    ignored: dict[str, str] = field(default_factory=dict)
    """By pod: why its newest report was ignored."""
    admissions: dict[str, dict[str, Admission]] = field(default_factory=dict)
    fetch: FetchProgress | None = None


class SignalStore:
    """Subscribes on NATS and returns `signals(key)` from memory; calls `changed` when a message has a new state."""

    def __init__(
        self,
        client: Client,
        changed: Callable[[ResourceKey], None],
        *,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._client = client
        self._changed = changed
        self._clock = clock
        self._wall = wall
        self._received: dict[ResourceKey, _Received] = {}
        self._gateways: dict[str, float] = {}
        self._presence = asyncio.Event()
        self._decoder = Decoder()
        self._connected_since = clock()
        """Start of the time to live of older messages; reset at each (re)connection."""
        self._reconnects = client.stats["reconnects"]

    async def start(self) -> None:
        """Subscribe, and solicit a report from every replica."""
        await self._client.subscribe(subjects.ALL_DEMAND, cb=self._on_demand)
        await self._client.subscribe(subjects.ALL_REPLICAS, cb=self._on_replica)
        await self._client.subscribe(subjects.ALL_CONTAINER_REPORTS, cb=self._on_container_report)
        await self._client.subscribe(subjects.ALL_ADMISSIONS, cb=self._on_admission)
        await self._client.subscribe(subjects.ALL_PROGRESS, cb=self._on_progress)
        await self._client.subscribe(subjects.ALL_PRESENCE, cb=self._on_presence)
        await self.solicit()

    async def solicit(self) -> None:
        """Restart the time to live of all messages, and solicit a report from every sender."""
        self._connected_since = self._clock()
        await self._client.publish(subjects.SOLICIT)

    def live_gateways(self) -> frozenset[str]:
        """Return the ids of the gateways that renewed their presence within their time to live."""
        return frozenset(gateway for gateway, at in self._gateways.items() if self._fresh(at, _GATEWAY_TTL))

    def signals(self, key: ResourceKey) -> Signals:
        """Return the present signals of a resource."""
        received = self._received.get(key) or _Received()
        reports = {
            pod: report for pod, (at, report) in received.replicas.items() if self._fresh(at, REPLICA_TTL_SECONDS)
        }
        live = self.live_gateways()
        return Signals(
            now=self._clock(),
            wall=self._wall(),
            demand={gw: demand for gw, (at, demand) in received.demand.items() if self._fresh(at, _GATEWAY_TTL)},
            replicas=reports,
            ignored=dict(received.ignored),
            admissions={
                pod: live & _admitting(received.admissions.get(pod, {}), report) for pod, report in reports.items()
            },
            gateways=live,
            fetch=received.fetch,
            connected=self._client.is_connected,
        )

    def forget(self, key: ResourceKey) -> None:
        """Drop the messages about a deleted resource."""
        self._received.pop(key, None)

    def forget_pods(self, key: ResourceKey, present: frozenset[str]) -> None:
        """Drop the messages about deleted pods, so that memory is bounded by the existing ones."""
        received = self._received.get(key)
        if received is None:
            return
        for pod in [pod for pod in received.replicas if pod not in present]:
            del received.replicas[pod]
        for pod in [pod for pod in received.admissions if pod not in present]:
            del received.admissions[pod]
        for pod in received.ignored.keys() - present:
            del received.ignored[pod]

    def forget_fetch(self, key: ResourceKey) -> None:
        """Drop the progress of a fetch whose Job was deleted, because it is not that of the next Job."""
        received = self._received.get(key)
        if received is not None:
            received.fetch = None

    def _fresh(self, at: float, ttl: float) -> bool:
        if not self._client.is_connected:
            return True
        if self._reconnects != self._client.stats["reconnects"]:
            # The client increments this counter when it is connected, and calls the callback some steps later: a
            # reconcile pass in between must not treat messages as expired because the broker was unavailable.
            self._reconnects = self._client.stats["reconnects"]
            self._connected_since = self._clock()
        return self._clock() - max(at, self._connected_since) <= ttl

    async def wait_for_presence_change(self, timeout_seconds: float) -> None:
        """Wait until a gateway appears or shuts down, or for the timeout."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_seconds):
                await self._presence.wait()
        self._presence.clear()

    async def _on_presence(self, msg: Msg) -> None:
        """Record that a gateway renewed or deleted its presence."""
        gateway = msg.subject.rpartition(".")[2]
        before = self.live_gateways()
        if msg.headers and KV_OP in msg.headers:
            self._gateways.pop(gateway, None)
        else:
            alive = {each: at for each, at in self._gateways.items() if self._fresh(at, _GATEWAY_TTL)}
            self._gateways = {**alive, gateway: self._clock()}
        if self.live_gateways() != before:
            self._presence.set()

    async def _on_demand(self, msg: Msg) -> None:
        key, demand = _key_of(msg.subject), self._decoder.decode(Demand, msg)
        if demand is None:
            return
        received = self._received.setdefault(key, _Received())
        before = received.demand.get(demand.gateway)
        alive = {gw: entry for gw, entry in received.demand.items() if self._fresh(entry[0], _GATEWAY_TTL)}
        received.demand = {**alive, demand.gateway: (self._clock(), demand)}
        if before is None or before[1] != demand:
            self._changed(key)

    async def _on_replica(self, msg: Msg) -> None:
        """Record a report of a self-registering replica; any process with its namespace's login can publish it."""
        key, report = _key_of(msg.subject), self._decoder.decode(Announcement, msg)
        received, pod = self._received.setdefault(key, _Received()), msg.subject.rpartition(".")[2]
        if report is None:
            if received.ignored.get(pod) != self._decoder.fault:
                received.ignored[pod] = self._decoder.fault
                self._changed(key)
            return
        received.ignored.pop(pod, None)
        before = received.replicas.get(pod)
        if before is not None and not isinstance(before[1], Announcement):
            return  # the reconcile loop itself reports for this pod
        self._remember(key, report)

    async def _on_container_report(self, msg: Msg) -> None:
        """Record the reconcile loop's report for a replica that does not register itself."""
        report = self._decoder.decode(ReplicaReport, msg)
        if report is not None:
            self._remember(_key_of(msg.subject), report)

    def _remember(self, key: ResourceKey, report: ReplicaReport) -> None:
        received = self._received.setdefault(key, _Received())
        before = received.replicas.get(report.pod)
        if before is not None and type(before[1]) is type(report) and _order(report) < _order(before[1]):
            return
        received.replicas[report.pod] = (self._clock(), report)
        if before is None or _lifecycle(before[1]) != _lifecycle(report):
            self._changed(key)

    async def _on_admission(self, msg: Msg) -> None:
        key, admission = _key_of(msg.subject), self._decoder.decode(Admission, msg)
        if admission is None:
            return
        of_pod = self._received.setdefault(key, _Received()).admissions.setdefault(admission.pod, {})
        if of_pod.get(admission.gateway) != admission:
            of_pod[admission.gateway] = admission
            self._changed(key)

    async def _on_progress(self, msg: Msg) -> None:
        key, progress = _key_of(msg.subject), self._decoder.decode(FetchProgress, msg)
        if progress is None:
            return
        received = self._received.setdefault(key, _Received())
        before, received.fetch = received.fetch, progress
        if before is None or (before.uri, before.percent) != (progress.uri, progress.percent):
            self._changed(key)


_GATEWAY_TTL = subjects.GATEWAY_TTL_SECONDS


def _order(report: ReplicaReport) -> tuple[float, int]:
    """Return the sort key of the reports of one pod name."""
    return report.started, report.sequence


def _lifecycle(report: ReplicaReport) -> tuple[float, ReplicaState, str, int | None]:
    """Return the part of a report that needs a reconcile pass when it changes; the load does not."""
    return report.started, report.state, report.stage, report.percent


def _admitting(admissions: dict[str, Admission], report: ReplicaReport) -> frozenset[str]:
    """Return the gateways that route to the replica's present process, not to an earlier one of the same pod name."""
    return frozenset(
        gateway
        for gateway, admission in admissions.items()
        if admission.started == report.started and admission.state is ReplicaState.READY
    )


def _key_of(subject: str) -> ResourceKey:
    """Return the resource of a message: all these subjects are of ModelDeployments (`headrace.events.subjects`)."""
    _, _, namespace, name, *_ = subject.split(".")
    return ResourceKey(MODEL_DEPLOYMENT, namespace, name)
