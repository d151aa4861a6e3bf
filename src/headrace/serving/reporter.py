"""Reports of a replica on NATS: its state, loading progress and load.

A report is published at each change, every second, and immediately after a message on `headrace.solicit` or a
reconnection. Gateways publish admissions: a draining replica waits for those of the gateways that route to it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable
from typing import Any

from headrace.events import subjects
from headrace.events.connection import connect, publish_if_connected, raise_if_cancelled
from headrace.events.decoder import Decoder
from headrace.events.messages import Admission, Announcement, ReplicaState
from headrace.events.nats_library import Client, Msg
from headrace.serving.identity import Identity
from headrace.serving.replica import Replica

log = logging.getLogger(__name__)

REPORT_SECONDS = 1.0
REFUSED_SECONDS = 3.0
"""How long a rejected login is retried at the start: the broker may admit a namespace after its first pod starts."""
MAX_GATEWAYS = 256
"""Bound of the gateways that are remembered over a replica's life."""


class Reporter:
    """Reports for one replica. The broker may be unavailable, but must not reject the login."""

    def __init__(self, identity: Identity, port: int, replica: Replica[Any]) -> None:
        self._identity = identity
        self._port = port
        self._replica = replica
        self._sequence = 0
        self._decoder = Decoder()
        self._announced = asyncio.Event()
        self._changed = asyncio.Event()
        self._gateways: dict[str, ReplicaState] = {}
        self._admission_received = asyncio.Event()
        replica.listen(self._changed.set)

    async def run(self) -> None:
        """Report until cancelled. Raises LoginRefused: a restarted process reads the login again."""
        me = self._identity
        client = await connect(
            me.nats_url,
            name=f"runtime-{me.namespace}-{me.pod}",
            user=me.nats_user,
            password=me.nats_password,
            on_reconnect=self._changed.set,
            refused_seconds=REFUSED_SECONDS,
        )
        try:
            # Before the first report: its admission must not be missed.
            await client.subscribe(subjects.SOLICIT, cb=self._on_solicit)
            await client.subscribe(subjects.admission(me.namespace, me.deployment, me.pod), cb=self._on_admission)
            await self._report_forever(client)
        finally:
            await client.close()

    async def announced(self, seconds: float) -> bool:
        """Wait until the first report is published; return False on a timeout."""
        return await _within(seconds, self._announced.wait())

    async def released(self, seconds: float) -> bool:
        """Wait until no gateway routes here; return False on a timeout.

        Returns immediately if none ever did. The timeout is for gateways that crashed while they routed here.
        """
        return await _within(seconds, self._until_released())

    async def _until_released(self) -> None:
        while ReplicaState.READY in self._gateways.values():
            self._admission_received.clear()
            await self._admission_received.wait()

    async def _report_forever(self, client: Client) -> None:
        me = self._identity
        subject = subjects.replica(me.namespace, me.deployment, me.pod)
        while True:
            raise_if_cancelled()
            self._changed.clear()
            if await publish_if_connected(client, subject, self._report()):
                self._announced.set()
            await _within(REPORT_SECONDS, self._changed.wait())

    def _report(self) -> Announcement:
        self._sequence += 1
        me, replica = self._identity, self._replica
        return Announcement(
            secret=me.secret,
            pod=me.pod,
            revision=me.revision,
            host=me.host,
            port=self._port,
            started=replica.started,
            sequence=self._sequence,
            state=replica.status.state,
            stage=replica.status.stage,
            percent=replica.status.percent,
            stages=replica.stages,
            kept_weights=replica.kept_weights,
            capacity=replica.engine.capacity if replica.engine is not None else 1,
            load=replica.load(),
        )

    async def _on_solicit(self, msg: Msg) -> None:
        del msg
        self._changed.set()

    async def _on_admission(self, msg: Msg) -> None:
        admission = self._decoder.decode(Admission, msg)
        if admission is None or admission.started != self._replica.started:
            return  # or it is for an earlier process of this pod
        if self._gateways.get(admission.gateway) is admission.state:
            return
        if admission.gateway in self._gateways or len(self._gateways) < MAX_GATEWAYS:
            self._gateways[admission.gateway] = admission.state
            log.info("gateway %s has acknowledged %s", admission.gateway, admission.state.value)
        self._admission_received.set()


async def _within(seconds: float, event: Awaitable[object]) -> bool:
    try:
        async with asyncio.timeout(seconds):
            await event
    except TimeoutError:
        return False
    return True
