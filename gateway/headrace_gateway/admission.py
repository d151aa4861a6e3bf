"""Admission of replicas: a reported replica is probed once, gets requests at once, and is acknowledged.

Nothing here waits for a pod to be Ready: the replica reports it. A report is only a claim, because any client with the
namespace's NATS login can report any address; the probe proves it (`headrace_gateway.probe`). An unproven replica
reserves nothing and blocks no address: only the process at the address can prove it, whoever else reported it.
Acknowledgements are repeated while reports arrive, so that a reconcile loop or replica that missed one gets the next.
"""

from __future__ import annotations

import asyncio
import logging
import time

from headrace.events.messages import Announcement, ReplicaReport, ReplicaState
from headrace_gateway.claims import MAX_REPLICAS, MAX_UNPROVEN, Claims
from headrace_gateway.liveness import SUSPECT_SECONDS, Liveness
from headrace_gateway.model import ServedModel
from headrace_gateway.networks import PodNetworks, canonical
from headrace_gateway.outbox import Outbox
from headrace_gateway.probe import Answer, Finding, probe
from headrace_gateway.replica import Replica
from headrace_gateway.table import Table

log = logging.getLogger(__name__)

ACKNOWLEDGE_AGAIN_SECONDS = 2.0
PROBE_AGAIN_SECONDS = 0.5
"""Between the starts of two probes of a replica, however often it reports."""
MAX_CLOCK_SKEW_SECONDS = 10.0
"""Of a replica's `started`: the newer of two processes is the live one, so a later time is not accepted."""


class Admissions:
    """Decides which replicas requests are routed to. `tasks` owns the probes."""

    def __init__(self, table: Table, outbox: Outbox, tasks: asyncio.TaskGroup, networks: PodNetworks) -> None:
        self.liveness = Liveness(table, tasks)
        self._table = table
        self._outbox = outbox
        self._tasks = tasks
        self._networks = networks
        self._claims = Claims(table)
        self._loop = asyncio.get_running_loop()

    def on_report(self, namespace: str, name: str, report: ReplicaReport) -> None:
        """Take a report of a replica (an `Announcement`), or of the reconcile loop for it."""
        address = canonical(report.host)
        if address is None:
            self._claims.ignore(namespace, report.pod, f"its host {report.host!r} is not an IP address")
            return
        if isinstance(report, Announcement) and (refusal := self._networks.refusal(address)):
            self._claims.ignore(namespace, report.pod, f"it reports the address {address}: {refusal}")
            return
        report = report.model_copy(update={"host": str(address)})
        before = self._table.models.get((namespace, name))
        known = before.replicas.get(report.pod) if before is not None else None
        if isinstance(report, Announcement) and before is not None and before.loop_reports_for(report.revision):
            self._claims.ignore(namespace, report.pod, "the reconcile loop reports for its revision")
            return
        if not self._is_valid(namespace, report, known):
            return
        if known is None and not self._claims.have_capacity(namespace, report):
            why = f"the namespace has {MAX_REPLICAS} replicas, or {MAX_UNPROVEN} that have not proven their address"
            self._claims.ignore(namespace, report.pod, why)
            return
        model = self._table.model(namespace, name)
        replica = self._record(model, known, report)
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

    def probe(self, model: ServedModel, replica: Replica) -> None:
        """Probe the replica once, and admit it if it is ready."""
        if not replica.probing:
            replica.probing = True
            self._tasks.create_task(self._probe(model, replica))

    def probe_all(self) -> None:
        """Probe every replica that is reported ready and not admitted: after a start, and while NATS is unavailable."""
        for model in self._table.models.values():
            for replica in model.replicas.values():
                if replica.report.state is ReplicaState.READY and not replica.admitted:
                    self.probe(model, replica)

    def acknowledge_again(self) -> None:
        """Acknowledge each replica again at its next report: earlier acknowledgements may be lost."""
        for model in self._table.models.values():
            for replica in model.replicas.values():
                replica.acknowledged = None

    # -- reports -----------------------------------------------------------------------------------------------------

    def _is_valid(self, namespace: str, report: ReplicaReport, known: Replica | None) -> bool:
        """Return whether a report is current, and from a sender that may report this pod."""
        if report.started > time.time() + MAX_CLOCK_SKEW_SECONDS:
            self._claims.ignore(namespace, report.pod, "its start time is in the future")
            return False
        by_loop = not isinstance(report, Announcement)
        if known is not None and (known.secret is None) is not by_loop:
            if not by_loop:
                self._claims.ignore(namespace, report.pod, "the reconcile loop reports for it")
            return by_loop
        if known is not None and (report.started, report.sequence) <= (known.report.started, known.report.sequence):
            if (report.started, report.sequence) == (known.report.started, known.report.sequence):
                self._claims.ignore(namespace, report.pod, f"its sequence stays at {report.sequence}")
            return False  # otherwise a newer report overtook it
        return not by_loop or self._is_newer_than_holder(namespace, report, known)

    def _is_newer_than_holder(self, namespace: str, report: ReplicaReport, known: Replica | None) -> bool:
        """Return whether a report of the loop is newer than the holder of its address: a pod's status may be stale."""
        holder = self._table.holder(report)
        if holder is None or holder[1] is known or self.liveness.silent_seconds(holder[1]) > SUSPECT_SECONDS:
            return True
        if holder[1].secret is None and holder[1].report.started < report.started:
            return True
        self._claims.ignore(namespace, report.pod, f"its address belongs to {holder[0].namespace}/{holder[1].pod}")
        return False

    def _record(self, model: ServedModel, known: Replica | None, report: ReplicaReport) -> Replica:
        """Return the reported replica: the known one, or a new one that replaces it."""
        now = self._loop.time()
        if known is None or _process(report) != _process(known.report):
            replica = Replica(report, now)
            self._table.add_replica(model, replica)
            return replica
        state_before = known.report.state
        known.update(report, now)
        if known.proven and report.state is not state_before:
            self._table.changed()  # the copy on disk determines which replicas are probed after a restart
        return known

    def _stop_routing(self, model: ServedModel, replica: Replica) -> None:
        if replica.admitted:
            state = replica.report.state.value
            log.info("stopped routing to %s/%s: it is %s", model.namespace, replica.pod, state)
            replica.withdraw()
            self._acknowledge(model, replica, ReplicaState.DRAINING)

    # -- probes ------------------------------------------------------------------------------------------------------

    async def _probe(self, model: ServedModel, replica: Replica) -> None:
        try:
            await asyncio.sleep(max(0.0, replica.probed_at + PROBE_AGAIN_SECONDS - self._loop.time()))
            replica.probed_at = self._loop.time()
            finding = await (probe(model, replica) if replica.proven else self._prove(model, replica))
        finally:
            replica.probing = False
        if finding is None or model.replicas.get(replica.pod) is not replica:
            return
        self._log_fault(model, replica, finding)
        if finding.answer is Answer.OTHER_PROCESS and replica.proven:
            self._table.remove_replica(model, replica)  # another process has its address now
        elif finding.proven:
            replica.note_alive(self._loop.time())
            if not replica.proven:
                self._table.prove(model, replica)
        still_meant = replica.report.state is ReplicaState.READY and not replica.admitted
        if finding.answer is Answer.READY and still_meant:
            replica.admitted = True
            replica.suspect = False
            log.info(
                "routing to %s/%s at %s:%d", model.namespace, replica.pod, replica.report.host, replica.report.port
            )
            model.pump()
            self._acknowledge(model, replica, ReplicaState.READY)

    async def _prove(self, model: ServedModel, replica: Replica) -> Finding | None:
        """Probe within the bounds of the namespace. None: not now; its next report causes another probe."""
        budget = self._claims.budget(model.namespace)
        async with budget.places:
            if model.replicas.get(replica.pod) is not replica or not budget.spend():
                return None
            finding = await probe(model, replica)
            if finding.proven:
                budget.refund()
            return finding

    def _log_fault(self, model: ServedModel, replica: Replica, finding: Finding) -> None:
        """Log a fault once, until it changes or ends."""
        if finding.fault not in ("", replica.probe_fault):
            said = f"reports ready, but {finding.fault}"
            if replica.proven:
                log.info("%s/%s %s", model.namespace, replica.pod, said)
            else:
                self._claims.ignore(model.namespace, replica.pod, f"it {said}")
        replica.probe_fault = finding.fault

    def _acknowledge(self, model: ServedModel, replica: Replica, state: ReplicaState) -> None:
        now = self._loop.time()
        if replica.acknowledged is state and now - replica.acknowledged_at < ACKNOWLEDGE_AGAIN_SECONDS:
            return
        replica.acknowledged, replica.acknowledged_at = state, now
        self._outbox.admission(model, replica.report, state)


def _process(report: ReplicaReport) -> tuple[object, ...]:
    """Return the identity of the process: it differs after a restart."""
    return report.started, report.host, report.port, report.secret if isinstance(report, Announcement) else None
