"""From a replica's word to requests on it: hear, probe once, route at once, acknowledge; and back when it drains.

Nothing here waits for a pod to be Ready: the replica says so itself, and is believed after one answer on its port.
Acknowledgements are said again while reports come in, so that a loop or a replica that missed one learns it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from ipaddress import IPv6Address, ip_address

from headrace.events.messages import ReplicaReport, ReplicaState
from headrace_gateway.model import ServedModel
from headrace_gateway.outbox import Outbox
from headrace_gateway.replica import Replica
from headrace_gateway.table import Table
from headrace_gateway.upstream.connection import UpstreamError
from headrace_gateway.upstream.pool import Pool

log = logging.getLogger(__name__)

PROBE_SECONDS = 2.0
ACKNOWLEDGE_AGAIN_SECONDS = 2.0
SUSPECT_SECONDS = 5.0
"""Five missed reports: other replicas are preferred from now on."""
FORGET_SECONDS = 60.0
"""Silent for so long while NATS was there: the pod is gone. A replica that was only cut off reports again."""
MAX_REPLICAS = 1000
"""Of one namespace, far above what one has: whoever may speak in it can invent pods, and fills no memory with them."""
MAX_CLOCK_SKEW_SECONDS = 10.0
"""Of a replica's `started`, the newer of two being the one that lives: nobody is newer than now."""
_OK = 200


class Admissions:
    """Decides which replicas requests are routed to. `tasks` owns the probes."""

    def __init__(self, table: Table, outbox: Outbox, tasks: asyncio.TaskGroup) -> None:
        self._table = table
        self._outbox = outbox
        self._tasks = tasks
        self._loop = asyncio.get_running_loop()
        self._listening_since = float("-inf")
        self._ignored: set[tuple[str, str]] = set()
        """Of whom it was said that they are."""

    def listen_anew(self) -> None:
        """Nobody was silent until now whom we could not hear: the broker was away."""
        self._listening_since = self._loop.time()

    def heard(self, namespace: str, name: str, report: ReplicaReport) -> None:
        """A replica has spoken."""
        host = _canonical(report.host)
        if host is None:
            self._ignore(namespace, report, f"its host {report.host!r} is no IP address that others can reach")
            return
        report = report.model_copy(update={"host": host})
        before = self._table.models.get((namespace, name))
        known = before.replicas.get(report.pod) if before is not None else None
        if known is None and self._is_full(namespace):
            self._ignore(namespace, report, f"the namespace has {MAX_REPLICAS} replicas already")
            return
        if known is not None and (report.started, report.sequence) <= (known.report.started, known.report.sequence):
            if (report.started, report.sequence) == (known.report.started, known.report.sequence):
                self._ignore(namespace, report, f"its sequence stays at {report.sequence}")
            return  # else overtaken by a newer one
        if not self._may_be(namespace, report):
            return
        model = self._table.model(namespace, name)
        replica = self._remember(model, known, report)
        match report.state:
            case ReplicaState.LOADING:
                self._stop_routing(model, replica)
                model.queue.stage_changed()
            case ReplicaState.READY if replica.admitted:
                self._acknowledge(model, replica, report.state)
                model.pump()  # its capacity may have grown
            case ReplicaState.READY:
                self.probe(model, replica)
            case ReplicaState.DRAINING:
                self._stop_routing(model, replica)
                self._acknowledge(model, replica, report.state)

    def _stop_routing(self, model: ServedModel, replica: Replica) -> None:
        if replica.admitted:
            state = replica.report.state.value
            log.info("stopped routing to %s/%s: it is %s", model.namespace, replica.pod, state)
            replica.withdraw()
            self._acknowledge(model, replica, ReplicaState.DRAINING)

    def probe(self, model: ServedModel, replica: Replica) -> None:
        """Ask the replica once whether it is ready, and route to it at once if so."""
        if not replica.probing:
            replica.probing = True
            self._tasks.create_task(self._probe(model, replica))

    def probe_all(self) -> None:
        """Probe every replica that is said to be ready and gets nothing: after a start, and while NATS is away."""
        for model in self._table.models.values():
            for replica in model.replicas.values():
                if replica.report.state is ReplicaState.READY and not replica.admitted:
                    self.probe(model, replica)

    def acknowledge_again(self) -> None:
        """Somebody may have missed what was said: acknowledge each replica anew at its next report."""
        for model in self._table.models.values():
            for replica in model.replicas.values():
                replica.acknowledged = None

    def judge_silence(self) -> None:
        """Suspect, and later forget, who was silent although NATS was there to hear him."""
        for model in list(self._table.models.values()):
            for replica in list(model.replicas.values()):
                silence = self._silence(replica)
                replica.suspect = replica.suspect or silence > SUSPECT_SECONDS  # until it speaks again
                if silence > FORGET_SECONDS and model.is_spoken_for(replica):
                    self._ask_instead(model, replica)
                elif silence > FORGET_SECONDS and not replica.in_flight:
                    log.info("forgot %s/%s: silent for %.0f s", model.namespace, replica.pod, silence)
                    self._table.remove_replica(model, replica)

    def _ask_instead(self, model: ServedModel, replica: Replica) -> None:
        """Who is spoken for is not gone when his spokesman is silent: he is believed while he answers."""
        if replica.admitted and not replica.probing:
            replica.probing = True
            self._tasks.create_task(self._confirm(model, replica))
        elif not replica.admitted and not replica.in_flight:
            self._table.remove_replica(model, replica)

    async def _confirm(self, model: ServedModel, replica: Replica) -> None:
        try:
            if await self._answers(model, replica):
                replica.heard = self._loop.time()
            else:
                replica.withdraw()
        finally:
            replica.probing = False

    def _remember(self, model: ServedModel, known: Replica | None, report: ReplicaReport) -> Replica:
        """Return the replica that has spoken: the known one, or a new one, which takes the place of its name."""
        now = self._loop.time()
        if known is None or _process(report) != _process(known.report):
            replica = Replica(report, now)
            self._table.add_replica(model, replica)
            return replica
        state_before = known.report.state
        known.update(report, now)
        if report.state is not state_before:
            self._table.changed()  # the copy on disk says whom to probe after a restart
        return known

    def _silence(self, replica: Replica) -> float:
        return self._loop.time() - max(replica.heard, self._listening_since)

    def _may_be(self, namespace: str, report: ReplicaReport) -> bool:
        """Return whether a report is believed: not a start in the future, not the address of another tenant's replica.

        Inside a namespace the newer has the address. Across namespaces its holder keeps it for as long as it is heard:
        a lie would end another tenant's replica, or lead requests to it past its keys.
        """
        if report.started > time.time() + MAX_CLOCK_SKEW_SECONDS:
            self._ignore(namespace, report, "it says that it starts in the future")
            return False
        holder = self._table.holder(report)
        if holder is None or holder[0].namespace == namespace or self._silence(holder[1]) > SUSPECT_SECONDS:
            return True
        self._ignore(namespace, report, f"it reports the address of {holder[0].namespace}/{holder[1].pod}")
        return False

    def _ignore(self, namespace: str, report: ReplicaReport, why: str) -> None:
        """Say so, once for each: reports come every second."""
        if (namespace, report.pod) not in self._ignored and len(self._ignored) < MAX_REPLICAS:
            self._ignored.add((namespace, report.pod))
            log.warning("ignored %s/%s: %s", namespace, report.pod, why)

    def _is_full(self, namespace: str) -> bool:
        models = self._table.models.values()
        return sum(len(each.replicas) for each in models if each.namespace == namespace) >= MAX_REPLICAS

    async def _probe(self, model: ServedModel, replica: Replica) -> None:
        try:
            ready = await self._answers(model, replica)
        finally:
            replica.probing = False
        still_meant = model.replicas.get(replica.pod) is replica and replica.report.state is ReplicaState.READY
        if ready and still_meant and not replica.admitted:
            replica.admitted = True
            log.info(
                "routing to %s/%s at %s:%d", model.namespace, replica.pod, replica.report.host, replica.report.port
            )
            model.pump()
            self._acknowledge(model, replica, ReplicaState.READY)

    async def _answers(self, model: ServedModel, replica: Replica) -> bool:
        """Return whether its readiness path does; a failure is told once until it is another, or is over."""
        path = model.readiness_path(replica)
        fault = await _fault(replica.pool, path)
        if fault not in ("", replica.probe_fault):
            log.info("%s/%s says that it is ready, but %s: %s", model.namespace, replica.pod, path, fault)
        replica.probe_fault = fault
        return not fault

    def _acknowledge(self, model: ServedModel, replica: Replica, state: ReplicaState) -> None:
        now = self._loop.time()
        if replica.acknowledged is state and now - replica.acknowledged_at < ACKNOWLEDGE_AGAIN_SECONDS:
            return
        replica.acknowledged, replica.acknowledged_at = state, now
        self._outbox.admission(model, replica.report, state)


def _canonical(host: str) -> str | None:
    """Return the one way to write an IP address, or None for anything else: by a second name anybody could claim it."""
    try:
        address = ip_address(host)
    except ValueError:
        return None
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    return None if address.is_unspecified else str(address)


def _process(report: ReplicaReport) -> tuple[float, str, int]:
    """What is another after a restart."""
    return report.started, report.host, report.port


async def _fault(pool: Pool, path: str) -> str:
    """Return what keeps the readiness path from answering 200; empty when it does.

    The connection stays for the first request.
    """
    try:
        async with asyncio.timeout(PROBE_SECONDS):
            connection = await pool.connect()
            try:
                head = f"GET {path} HTTP/1.1\r\nhost: replica\r\nuser-agent: headrace-gateway\r\n\r\n"
                connection.send(head.encode())
                while not connection.complete:
                    await connection.changed()
                    connection.take()
                status = connection.head.status if connection.head is not None else 0
            finally:
                pool.give_back(connection)
    except (UpstreamError, TimeoutError) as error:
        return str(error) or f"no answer within {PROBE_SECONDS:.0f} s"
    return "" if status == _OK else f"status {status}"
