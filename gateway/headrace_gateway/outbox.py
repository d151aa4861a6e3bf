"""What the gateway has to say on NATS: the newest message of each subject, sent at once by one task.

Messages carry state, so a second one for a subject replaces the first: the outbox is bounded by what exists.
"""

from __future__ import annotations

import asyncio

from nats.aio.client import Client

from headrace.events import subjects
from headrace.events.connection import publish_if_connected, raise_if_cancelled
from headrace.events.messages import Admission, Message, ReplicaReport, ReplicaState
from headrace_gateway.model import ServedModel


class Outbox:
    """See the module. `gateway` is the id under which it speaks."""

    def __init__(self, gateway: str) -> None:
        self.gateway = gateway
        self._messages: dict[str, Message] = {}
        self._filled = asyncio.Event()

    def put(self, subject: str, message: Message) -> None:
        """Send it as soon as may be; dropped when the broker is away, for it is said again at its return."""
        self._messages[subject] = message
        self._filled.set()

    def demand(self, model: ServedModel) -> None:
        """Say how much a model is asked for; a zero is said once."""
        demand = model.demand(self.gateway)
        zero = not demand.queued and not demand.in_flight
        if not zero or not model.said_zero:
            model.said_zero = zero
            self.put(subjects.demand(model.namespace, model.name), demand)

    def admission(self, model: ServedModel, report: ReplicaReport, state: ReplicaState) -> None:
        """Acknowledge the state of a replica."""
        self.put(_admission_subject(model, report), self._admission(report, state))

    async def farewell(self, client: Client, model: ServedModel, report: ReplicaReport) -> None:
        """Tell a replica at the end that nothing is sent to it any more."""
        await publish_if_connected(
            client, _admission_subject(model, report), self._admission(report, ReplicaState.DRAINING)
        )

    async def run(self, client: Client) -> None:
        """Send until cancelled."""
        while True:
            raise_if_cancelled()
            await self._filled.wait()
            self._filled.clear()
            messages, self._messages = self._messages, {}
            for subject, message in messages.items():
                await publish_if_connected(client, subject, message)

    def _admission(self, report: ReplicaReport, state: ReplicaState) -> Admission:
        return Admission(gateway=self.gateway, pod=report.pod, started=report.started, state=state)


def _admission_subject(model: ServedModel, report: ReplicaReport) -> str:
    return subjects.admission(model.namespace, model.name, report.pod)
