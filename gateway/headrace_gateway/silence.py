"""What becomes of a replica that says nothing: it gets requests last, is asked, is given up, is forgotten.

Its reports come every second. Silence counts only while NATS is there, for a broker that is away says nothing about
the replicas behind it. So what has requests of ours is also judged by its *signs of life*: its reports, the answers to
probes, whatever comes for a request. A generation may take minutes before its first byte, but a process that lives
answers a probe meanwhile. One that gives no sign at all is given up: what it has not answered yet is retried elsewhere.
"""

from __future__ import annotations

import asyncio
import logging

from headrace_gateway.model import ServedModel
from headrace_gateway.probe import Answer, probe
from headrace_gateway.replica import Replica
from headrace_gateway.table import Table
from headrace_gateway.upstream.connection import ReplicaSilent

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

    def listen_anew(self) -> None:
        """Nobody was silent until now, as nobody could be heard: NATS was away, or this process was stopped."""
        self._listening_since = self._loop.time()

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
        quiet = replica.quiet_seconds(now)
        if replica.unanswered and quiet > _patience(model, replica):
            log.warning("gave up %s/%s: no sign of life for %.0f s", model.namespace, replica.pod, quiet)
            replica.withdraw()
            replica.pool.lose(ReplicaSilent(f"no sign of life for {quiet:.0f} s", answered=True))
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
                replica.pool.lose(ReplicaSilent("another process has its address", answered=True))
            case Answer.CLOSED:
                replica.withdraw()
            case Answer.NONE:
                replica.unanswered = replica.suspect = True
        if absent and answer is Answer.READY:
            replica.heard = now
        elif absent:
            replica.withdraw()


def _patience(model: ServedModel, replica: Replica) -> float:
    """Return for how long a replica may give no sign of life.

    A container that does not register itself may be one that answers nothing while it computes, so it has as long as a
    request of the route may wait. Whether it is ready is the kubelet's judgement.
    """
    deadline = float(model.route.queue_timeout_seconds) if model.route is not None else GIVE_UP_SECONDS
    return deadline if replica.secret is None else min(GIVE_UP_SECONDS, deadline)
