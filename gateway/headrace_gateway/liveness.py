"""Liveness of replicas: those that do not report are chosen last, probed, declared unresponsive, and removed.

Reports come every second. Their absence counts only while NATS is available. Replicas with requests in flight are
therefore also judged by their *signs of life*: reports, answers to probes, and bytes of an answer. A generation may
take minutes before its first byte, but a live process answers a probe meanwhile. A replica without any sign of life is
unresponsive, and its requests are retried elsewhere. A container that does not register itself may not answer while it
computes; it counts as responsive while the reconcile loop reports it Ready. The connections of a lost machine end
(`upstream.pool`), and a frozen process fails the kubelet's probe.
"""

from __future__ import annotations

import asyncio
import logging
import math

from headrace.events.messages import ReplicaState
from headrace_gateway.model import ServedModel
from headrace_gateway.probe import Answer, probe
from headrace_gateway.replica import Replica
from headrace_gateway.table import Table

log = logging.getLogger(__name__)

SUSPECT_SECONDS = 5.0
"""Five missed reports: other replicas are preferred from now on."""
REMOVE_SECONDS = 60.0
"""Without a report for so long while NATS was available, the pod is gone; a disconnected replica would report again."""
QUIET_SECONDS = 2.5
"""No sign of life while it has requests: it is probed from now on. Two missed reports, so that replicas that
report are not probed."""
UNRESPONSIVE_SECONDS = 8.0
"""No sign of life while it has requests, the last probe unanswered. Long enough for a process that got no processor
time; short enough for a retry within the deadline of most requests."""


class Liveness:
    """Checks all replicas every second. `tasks` owns the probes."""

    def __init__(self, table: Table, tasks: asyncio.TaskGroup) -> None:
        self._table = table
        self._tasks = tasks
        self._loop = asyncio.get_running_loop()
        self._receiving_since = float("-inf")
        self._running_since = float("-inf")

    def reset(self) -> None:
        """Count missing reports from now on: until now none could arrive."""
        self._receiving_since = self._loop.time()

    def resume(self) -> None:
        """Discard missing reports and unanswered probes of the time in which this process was stopped."""
        self.reset()
        self._running_since = self._loop.time()
        for model in self._table.models.values():
            for replica in model.replicas.values():
                replica.unanswered = False

    def silent_seconds(self, replica: Replica) -> float:
        """Return the seconds since the last report of a replica in which one could have arrived."""
        return self._loop.time() - max(replica.reported_at, self._receiving_since)

    def check(self) -> None:
        """Probe replicas, mark them as suspect, end their requests, and remove them."""
        now = self._loop.time()
        for model in list(self._table.models.values()):
            for replica in list(model.replicas.values()):
                if replica.pool.received_any():
                    replica.note_alive(now)
                if replica.in_flight:
                    self._check_signs_of_life(model, replica, now)
                silent_seconds = self.silent_seconds(replica)
                replica.suspect = replica.suspect or silent_seconds > SUSPECT_SECONDS  # until it reports again
                if silent_seconds > REMOVE_SECONDS:
                    self._check_absence(model, replica, silent_seconds)

    def _check_signs_of_life(self, model: ServedModel, replica: Replica, now: float) -> None:
        quiet = min(replica.quiet_seconds(now), now - self._running_since)
        if replica.unanswered and quiet > _allowed_quiet_seconds(model, replica):
            log.warning("%s/%s is unresponsive: no sign of life for %.0f s", model.namespace, replica.pod, quiet)
            replica.withdraw()
            replica.pool.fail_busy(f"no sign of life for {quiet:.0f} s")
        elif quiet > QUIET_SECONDS:
            self._ask(model, replica)

    def _check_absence(self, model: ServedModel, replica: Replica, silent_seconds: float) -> None:
        """Remove the replica, unless the reconcile loop reports for it: that one stays while it answers."""
        if replica.secret is None and replica.admitted:
            self._ask(model, replica)
        elif not replica.in_flight:
            log.info("removed %s/%s: no report for %.0f s", model.namespace, replica.pod, silent_seconds)
            self._table.remove_replica(model, replica)

    def _ask(self, model: ServedModel, replica: Replica) -> None:
        if not replica.probing:
            replica.probing = True
            self._tasks.create_task(self._probe(model, replica))

    async def _probe(self, model: ServedModel, replica: Replica) -> None:
        began = self._loop.time()
        try:
            answer = (await probe(model, replica)).answer
        finally:
            replica.probing = False
        now = self._loop.time()
        absent = self.silent_seconds(replica) > REMOVE_SECONDS
        match answer:
            case Answer.READY | Answer.NOT_READY:
                replica.note_alive(now)
            case Answer.OTHER_PROCESS:
                self._table.remove_replica(model, replica)
                replica.pool.fail_busy("another process has its address")
            case Answer.CLOSED:
                replica.withdraw()
            case Answer.NONE if began >= self._running_since:
                replica.unanswered = replica.suspect = True
        if absent and answer is Answer.READY:
            replica.reported_at = now
        elif absent:
            replica.withdraw()


def _allowed_quiet_seconds(model: ServedModel, replica: Replica) -> float:
    """Return how long a replica may be without a sign of life (see the module)."""
    deadline = float(model.route.queue_timeout_seconds) if model.route is not None else UNRESPONSIVE_SECONDS
    if replica.secret is not None:
        return min(UNRESPONSIVE_SECONDS, deadline)
    return math.inf if replica.report.state is ReplicaState.READY else deadline
