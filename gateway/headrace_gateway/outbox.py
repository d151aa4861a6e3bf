"""Messages to publish on NATS: the newest one of each subject, sent at once by one task.

Messages carry state, so a second one for a subject replaces the first: the outbox is bounded by the number of subjects.
"""

from __future__ import annotations

import asyncio

from nats.aio.client import Client

from headrace.events import subjects
from headrace.events.connection import publish_if_connected, raise_if_cancelled
from headrace.events.messages import Admission, Message, ReplicaReport, ReplicaState
from headrace_gateway.model import ServedModel


class Outbox:
    """See the module. `gateway` is the id in its messages."""

    def __init__(self, gateway: str) -> None:
        self.gateway = gateway
        self._messages: dict[str, Message] = {}
        self._filled = asyncio.Event()

    def put(self, subject: str, message: Message) -> None:
        """Send a message soon; dropped while NATS is unavailable: it is published again after the reconnection."""
        self._messages[subject] = message
        self._filled.set()

    def demand(self, model: ServedModel) -> None:
        """Publish the demand of a model; a zero is published once."""
        demand = model.demand(self.gateway)
        zero = not demand.queued and not demand.in_flight
        if not zero or not model.published_zero:
            model.published_zero = zero
            self.put(subjects.demand(model.namespace, model.name), demand)

    def admission(self, model: ServedModel, report: ReplicaReport, state: ReplicaState) -> None:
        """Acknowledge the state of a replica."""
        self.put(_admission_subject(model, report), self._admission(report, state))

    async def acknowledge_draining(self, client: Client, model: ServedModel, report: ReplicaReport) -> None:
        """Acknowledge a replica as draining when the gateway stops: no further requests are sent to it."""
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
