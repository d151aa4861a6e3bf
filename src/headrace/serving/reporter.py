"""A replica speaks of itself on NATS: its state, how far its loading is, how busy it is.

A report goes out at each change, every second, and at once when somebody who just started asks or the broker returns.
The gateways' admissions come back: they say who routes here, and so for whose acknowledgement a draining replica waits.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable
from typing import Any

from nats.aio.client import Client
from nats.aio.msg import Msg

from headrace.events import subjects
from headrace.events.connection import connect, heed_cancellation, publish_quietly
from headrace.events.decoder import Decoder
from headrace.events.messages import Admission, Announcement, ReplicaState
from headrace.serving.identity import Identity
from headrace.serving.replica import Replica

log = logging.getLogger(__name__)

REPORT_SECONDS = 1.0
REFUSED_SECONDS = 3.0
"""How long a refused login is borne at the start: the broker may hear of a new namespace after its first pod starts."""
MAX_GATEWAYS = 256
"""Bound of what is remembered of gateways that come and go over a replica's life."""


class Reporter:
    """Reports for one replica; it neither knows nor cares whether the broker is there, but it must know the login."""

    def __init__(self, identity: Identity, port: int, replica: Replica[Any]) -> None:
        self._identity = identity
        self._port = port
        self._replica = replica
        self._sequence = 0
        self._decoder = Decoder()
        self._announced = asyncio.Event()
        self._changed = asyncio.Event()
        self._gateways: dict[str, ReplicaState] = {}
        self._admission_heard = asyncio.Event()
        replica.listen(self._changed.set)

    async def run(self) -> None:
        """Report until cancelled. Raises LoginRefused: a new start reads the login anew."""
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
            # Heard before anything is said: an answer to the first report must not be missed.
            await client.subscribe(subjects.SOLICIT, cb=self._solicited)
            await client.subscribe(subjects.admission(me.namespace, me.deployment, me.pod), cb=self._admitted)
            await self._report_forever(client)
        finally:
            await client.close()

    async def announced(self, seconds: float) -> bool:
        """Wait until the first report is out; return whether that came to be in time."""
        return await _within(seconds, self._announced.wait())

    async def released(self, seconds: float) -> bool:
        """Wait until no gateway routes here any more; return whether that came to be in time.

        At once when none ever did. A gateway that died without a word is waited for in vain: hence the time.
        """
        return await _within(seconds, self._until_released())

    async def _until_released(self) -> None:
        while ReplicaState.READY in self._gateways.values():
            self._admission_heard.clear()
            await self._admission_heard.wait()

    async def _report_forever(self, client: Client) -> None:
        me = self._identity
        subject = subjects.replica(me.namespace, me.deployment, me.pod)
        while True:
            heed_cancellation()
            self._changed.clear()
            if await publish_quietly(client, subject, self._report()):
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
            state=replica.standing.state,
            stage=replica.standing.stage,
            percent=replica.standing.percent,
            capacity=replica.engine.capacity if replica.engine is not None else 1,
            load=replica.load(),
        )

    async def _solicited(self, msg: Msg) -> None:
        del msg
        self._changed.set()

    async def _admitted(self, msg: Msg) -> None:
        admission = self._decoder.decode(Admission, msg)
        if admission is None or admission.started != self._replica.started:
            return  # or it is meant for the process before us in this pod
        if self._gateways.get(admission.gateway) is admission.state:
            return
        if admission.gateway in self._gateways or len(self._gateways) < MAX_GATEWAYS:
            self._gateways[admission.gateway] = admission.state
            log.info("gateway %s has acknowledged %s", admission.gateway, admission.state.value)
        self._admission_heard.set()


async def _within(seconds: float, happening: Awaitable[object]) -> bool:
    try:
        async with asyncio.timeout(seconds):
            await happening
    except TimeoutError:
        return False
    return True
