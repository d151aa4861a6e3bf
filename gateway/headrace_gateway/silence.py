"""Replicas that do not report: they are chosen last, probed, given up, and removed.

Reports come every second. Their absence counts only while NATS is available. Replicas with requests in flight are
therefore also judged by their *signs of life*: reports, answers to probes, and bytes of an answer. A generation may
take minutes before its first byte, but a live process answers a probe meanwhile. A replica without any sign of life is
given up, and its requests are retried elsewhere. A container that does not register itself may answer nothing while it
computes; it is not given up while the reconcile loop reports it Ready. A vanished machine ends its connections
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
FORGET_SECONDS = 60.0
"""Silence for so long while NATS was there: the pod is gone. A replica that was only cut off reports again."""
QUIET_SECONDS = 2.5
"""No sign of life while it has requests: it is probed from now on. Two missed reports, so that no probe is made of
those that report."""
GIVE_UP_SECONDS = 8.0
"""No sign of life while it has requests, the last probe unanswered. Long enough for a process that was only starved of
processor time; short enough for a retry within the deadline of most requests."""


class Silence:
    """Judges silence, every second. `tasks` owns the probes."""

    def __init__(self, table: Table, tasks: asyncio.TaskGroup) -> None:
        self._table = table
        self._tasks = tasks
        self._loop = asyncio.get_running_loop()
        self._listening_since = float("-inf")
        self._running_since = float("-inf")

    def listen_anew(self) -> None:
        """Count silence from now on: until now no report could arrive."""
        self._listening_since = self._loop.time()

    def resume(self) -> None:
        """Count neither silence nor unanswered probes of the time in which this process was stopped."""
        self.listen_anew()
        self._running_since = self._loop.time()
        for model in self._table.models.values():
            for replica in model.replicas.values():
                replica.unanswered = False

    def seconds(self, replica: Replica) -> float:
        """Return for how long nothing was heard of a replica although it could have been."""
        return self._loop.time() - max(replica.heard, self._listening_since)

    def judge(self) -> None:
        """Probe, suspect, give up and forget."""
        now = self._loop.time()
        for model in list(self._table.models.values()):
            for replica in list(model.replicas.values()):
                if replica.pool.stirs():
                    replica.lives(now)
                if replica.in_flight:
                    self._judge_life(model, replica, now)
                silence = self.seconds(replica)
                replica.suspect = replica.suspect or silence > SUSPECT_SECONDS  # until it reports again
                if silence > FORGET_SECONDS:
                    self._judge_absence(model, replica, silence)

    def _judge_life(self, model: ServedModel, replica: Replica, now: float) -> None:
        quiet = min(replica.quiet_seconds(now), now - self._running_since)
        if replica.unanswered and quiet > _patience(model, replica):
            log.warning("gave up %s/%s: no sign of life for %.0f s", model.namespace, replica.pod, quiet)
            replica.withdraw()
            replica.pool.give_up(f"no sign of life for {quiet:.0f} s")
        elif quiet > QUIET_SECONDS:
            self._ask(model, replica)

    def _judge_absence(self, model: ServedModel, replica: Replica, silence: float) -> None:
        """Forget it, unless it is one for which the reconcile loop reports: that is believed while it answers."""
        if replica.secret is None and replica.admitted:
            self._ask(model, replica)
        elif not replica.in_flight:
            log.info("forgot %s/%s: silent for %.0f s", model.namespace, replica.pod, silence)
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
        absent = self.seconds(replica) > FORGET_SECONDS
        match answer:
            case Answer.READY | Answer.NOT_READY:
                replica.lives(now)
            case Answer.STRANGER:
                self._table.remove_replica(model, replica)
                replica.pool.give_up("another process has its address")
            case Answer.CLOSED:
                replica.withdraw()
            case Answer.NONE if began >= self._running_since:
                replica.unanswered = replica.suspect = True
        if absent and answer is Answer.READY:
            replica.heard = now
        elif absent:
            replica.withdraw()


def _patience(model: ServedModel, replica: Replica) -> float:
    """Return for how long a replica may give no sign of life (see the module)."""
    deadline = float(model.route.queue_timeout_seconds) if model.route is not None else GIVE_UP_SECONDS
    if replica.secret is not None:
        return min(GIVE_UP_SECONDS, deadline)
    return math.inf if replica.report.state is ReplicaState.READY else deadline
