"""What the loop has heard: the newest message of every sender, and who is still there.

Messages carry state, so hearing is remembering the last one. Silence is judged only while NATS is connected: a broker
that is away says nothing about the gateways and replicas behind it, so nothing ages meanwhile, and after its return
everybody has one time to live to speak again.
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
"""Ten missed reports: the process is stuck or gone, whatever the pod says."""


@dataclass(slots=True)
class _Heard:
    """Everything heard about one resource; the floats are monotonic times of arrival."""

    demand: dict[str, tuple[float, Demand]] = field(default_factory=dict)
    replicas: dict[str, tuple[float, ReplicaReport]] = field(default_factory=dict)
    ignored: dict[str, str] = field(default_factory=dict)
    """By pod: what was wrong with its newest report."""
    admissions: dict[str, dict[str, Admission]] = field(default_factory=dict)
    fetch: FetchProgress | None = None


class SignalHub:
    """Listens on NATS and answers `signals(key)` from memory; calls `changed` when a message says something new."""

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
        self._heard: dict[ResourceKey, _Heard] = {}
        self._gateways: dict[str, float] = {}
        self._presence = asyncio.Event()
        self._decoder = Decoder()
        self._silent_since = clock()
        """Nothing is older than this: set anew at each (re)connection."""
        self._reconnects = client.stats["reconnects"]

    async def start(self) -> None:
        """Subscribe, and ask every replica to report."""
        await self._client.subscribe(subjects.ALL_DEMAND, cb=self._on_demand)
        await self._client.subscribe(subjects.ALL_REPLICAS, cb=self._on_replica)
        await self._client.subscribe(subjects.ALL_BROUGHT, cb=self._on_brought)
        await self._client.subscribe(subjects.ALL_ADMISSIONS, cb=self._on_admission)
        await self._client.subscribe(subjects.ALL_PROGRESS, cb=self._on_progress)
        await self._client.subscribe(subjects.ALL_PRESENCE, cb=self._on_presence)
        await self.solicit()

    async def solicit(self) -> None:
        """Start counting silence from now, and ask everybody to speak."""
        self._silent_since = self._clock()
        await self._client.publish(subjects.SOLICIT)

    def live_gateways(self) -> frozenset[str]:
        """Return the ids of the gateways that renewed their presence within their time to live."""
        return frozenset(gateway for gateway, at in self._gateways.items() if self._fresh(at, _GATEWAY_TTL))

    def signals(self, key: ResourceKey) -> Signals:
        """Return what is known about a resource now."""
        heard = self._heard.get(key) or _Heard()
        reports = {pod: report for pod, (at, report) in heard.replicas.items() if self._fresh(at, REPLICA_TTL_SECONDS)}
        live = self.live_gateways()
        return Signals(
            now=self._clock(),
            wall=self._wall(),
            demand={gw: demand for gw, (at, demand) in heard.demand.items() if self._fresh(at, _GATEWAY_TTL)},
            replicas=reports,
            ignored=dict(heard.ignored),
            admissions={
                pod: live & _admitting(heard.admissions.get(pod, {}), report) for pod, report in reports.items()
            },
            gateways=live,
            fetch=heard.fetch,
            connected=self._client.is_connected,
        )

    def forget(self, key: ResourceKey) -> None:
        """Drop what was heard about a resource that is gone."""
        self._heard.pop(key, None)

    def forget_pods(self, key: ResourceKey, present: frozenset[str]) -> None:
        """Drop what was heard of pods that are no more, so that memory is bounded by what exists."""
        heard = self._heard.get(key)
        if heard is None:
            return
        for pod in [pod for pod in heard.replicas if pod not in present]:
            del heard.replicas[pod]
        for pod in [pod for pod in heard.admissions if pod not in present]:
            del heard.admissions[pod]
        for pod in heard.ignored.keys() - present:
            del heard.ignored[pod]

    def forget_fetch(self, key: ResourceKey) -> None:
        """Drop the progress of a fetch whose Job is gone: it is not that of the next one."""
        heard = self._heard.get(key)
        if heard is not None:
            heard.fetch = None

    def _fresh(self, at: float, ttl: float) -> bool:
        if not self._client.is_connected:
            return True
        if self._reconnects != self._client.stats["reconnects"]:
            # The client counts its return in the same step in which it is connected, and tells us some steps later:
            # a look in between must not take the broker's absence for everybody's silence.
            self._reconnects = self._client.stats["reconnects"]
            self._silent_since = self._clock()
        return self._clock() - max(at, self._silent_since) <= ttl

    async def presence_heard(self, timeout_seconds: float) -> None:
        """Return when a gateway has come or gone in good order, or after the timeout."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_seconds):
                await self._presence.wait()
        self._presence.clear()

    async def _on_presence(self, msg: Msg) -> None:
        """A gateway renewed its presence, or took it back."""
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
        heard = self._heard.setdefault(key, _Heard())
        before = heard.demand.get(demand.gateway)
        alive = {gw: said for gw, said in heard.demand.items() if self._fresh(said[0], _GATEWAY_TTL)}
        heard.demand = {**alive, demand.gateway: (self._clock(), demand)}
        if before is None or before[1] != demand:
            self._changed(key)

    async def _on_replica(self, msg: Msg) -> None:
        """A self-registering replica reported, or somebody with its namespace's login did in its name."""
        key, report = _key_of(msg.subject), self._decoder.decode(Announcement, msg)
        heard, pod = self._heard.setdefault(key, _Heard()), msg.subject.rpartition(".")[2]
        if report is None:
            if heard.ignored.get(pod) != self._decoder.fault:
                heard.ignored[pod] = self._decoder.fault
                self._changed(key)
            return
        heard.ignored.pop(pod, None)
        before = heard.replicas.get(pod)
        if before is not None and not isinstance(before[1], Announcement):
            return  # the loop itself reports for this pod
        self._remember(key, report)

    async def _on_brought(self, msg: Msg) -> None:
        """The loop reported for a replica that does not register itself."""
        report = self._decoder.decode(ReplicaReport, msg)
        if report is not None:
            self._remember(_key_of(msg.subject), report)

    def _remember(self, key: ResourceKey, report: ReplicaReport) -> None:
        heard = self._heard.setdefault(key, _Heard())
        before = heard.replicas.get(report.pod)
        if before is not None and type(before[1]) is type(report) and _order(report) < _order(before[1]):
            return
        heard.replicas[report.pod] = (self._clock(), report)
        if before is None or _life(before[1]) != _life(report):
            self._changed(key)

    async def _on_admission(self, msg: Msg) -> None:
        key, admission = _key_of(msg.subject), self._decoder.decode(Admission, msg)
        if admission is None:
            return
        of_pod = self._heard.setdefault(key, _Heard()).admissions.setdefault(admission.pod, {})
        if of_pod.get(admission.gateway) != admission:
            of_pod[admission.gateway] = admission
            self._changed(key)

    async def _on_progress(self, msg: Msg) -> None:
        key, progress = _key_of(msg.subject), self._decoder.decode(FetchProgress, msg)
        if progress is None:
            return
        heard = self._heard.setdefault(key, _Heard())
        before, heard.fetch = heard.fetch, progress
        if before is None or (before.uri, before.percent) != (progress.uri, progress.percent):
            self._changed(key)


_GATEWAY_TTL = subjects.GATEWAY_TTL_SECONDS


def _order(report: ReplicaReport) -> tuple[float, int]:
    """Return what orders the reports of one pod name."""
    return report.started, report.sequence


def _life(report: ReplicaReport) -> tuple[float, ReplicaState, str, int | None]:
    """What about a report asks for a reconcile; its load is read when the autoscaler next looks."""
    return report.started, report.state, report.stage, report.percent


def _admitting(admissions: dict[str, Admission], report: ReplicaReport) -> frozenset[str]:
    """Gateways that route to the replica's present process (not to one of the same name before a restart)."""
    return frozenset(
        gateway
        for gateway, admission in admissions.items()
        if admission.started == report.started and admission.state is ReplicaState.READY
    )


def _key_of(subject: str) -> ResourceKey:
    """Return whom a message is about: all subjects listened to are of ModelDeployments (`headrace.events.subjects`)."""
    _, _, namespace, name, *_ = subject.split(".")
    return ResourceKey(MODEL_DEPLOYMENT, namespace, name)
