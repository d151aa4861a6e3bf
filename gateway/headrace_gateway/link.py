"""The gateway on NATS: it receives routes, keys, reports and progress, and publishes presence, demand and admissions.

NATS may be unavailable at any time, also at the start. The gateway then serves with the last known table, and after a
reconnection everything is read and published again.
"""

from __future__ import annotations

import asyncio
import logging
import time

import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js.kv import KV_DEL, KV_OP

from headrace.events import subjects
from headrace.events.connection import connect, raise_if_cancelled
from headrace.events.decoder import Decoder
from headrace.events.messages import Announcement, FetchProgress, ReplicaReport
from headrace_gateway.admission import Admissions
from headrace_gateway.buckets import BucketMirror
from headrace_gateway.outbox import Outbox
from headrace_gateway.settings import Settings
from headrace_gateway.table import Table

log = logging.getLogger(__name__)

PRESENCE_SECONDS = 1.5
"""Three renewals within the time to live of 5 s."""
TICK_SECONDS = 1.0
STOPPED_SECONDS = 3.0
"""Between two ticks: the process was stopped meanwhile and received nothing."""
CLOSE_SECONDS = 1.0


class Link:
    """See the module."""

    def __init__(self, settings: Settings, table: Table, outbox: Outbox, admissions: Admissions) -> None:
        self.connected = False
        self._settings = settings
        self._table = table
        self._outbox = outbox
        self._admissions = admissions
        self._started = time.time()
        self._routes = BucketMirror(subjects.ROUTES_BUCKET, table.set_route, table.routes)
        self._keys = BucketMirror(subjects.KEYS_BUCKET, table.set_key, table.grants, lose=table.lose_key)
        self._returned = asyncio.Event()
        self._client: Client | None = None
        self._decoder = Decoder()

    async def run(self) -> None:
        """Run until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._tick_forever())
            settings = self._settings
            client = await connect(
                settings.nats_url,
                name=self._outbox.gateway,
                user=settings.nats_user,
                password=settings.nats_password,
                on_reconnect=self._returned.set,
            )
            self._client = client
            try:
                await client.subscribe(subjects.ALL_REPLICAS, cb=self._on_replica)
                await client.subscribe(subjects.ALL_CONTAINER_REPORTS, cb=self._on_container)
                await client.subscribe(subjects.ALL_PROGRESS, cb=self._on_progress)
                await client.subscribe(subjects.SOLICIT, cb=self._on_solicit)
                async with asyncio.TaskGroup() as connected:
                    for mirror in (self._routes, self._keys):
                        connected.create_task(mirror.run(client))
                    connected.create_task(self._outbox.run(client))
                    connected.create_task(self._renew_presence_forever(client))
                    connected.create_task(self._synchronize_forever(client))
                    connected.create_task(self._loaded())
            finally:
                await self._disconnect(client)

    async def _loaded(self) -> None:
        await self._routes.read.wait()
        await self._keys.read.wait()
        if not self._table.loaded.is_set():
            self._table.loaded.set()
            self._table.changed()

    async def _synchronize_forever(self, client: Client) -> None:
        """At the start and after each reconnection, read and publish everything again."""
        while True:
            self._returned.clear()
            self._admissions.liveness.reset()
            self._admissions.acknowledge_again()
            self._routes.read_again()
            self._keys.read_again()
            await _publish(client, subjects.SOLICIT)
            await self._publish_presence(client)
            for model in list(self._table.models.values()):
                self._outbox.demand(model)
            raise_if_cancelled()
            await self._returned.wait()

    async def _renew_presence_forever(self, client: Client) -> None:
        while True:
            raise_if_cancelled()
            await asyncio.sleep(PRESENCE_SECONDS)
            await self._publish_presence(client)

    async def _publish_presence(self, client: Client) -> None:
        await _publish(client, self._presence, str(self._started).encode())

    async def _disconnect(self, client: Client) -> None:
        """Acknowledge all replicas as draining and delete the presence key, so that nothing waits for this gateway."""
        models = self._table.models.values()
        routed = [(model, each.report) for model in models for each in model.replicas.values() if each.admitted]
        for model, report in routed:  # a list: replicas change while this is published
            await self._outbox.acknowledge_draining(client, model, report)
        await _publish(client, self._presence, headers={KV_OP: KV_DEL})
        try:
            async with asyncio.timeout(CLOSE_SECONDS):
                await client.close()
        except TimeoutError:
            log.debug("the connection to NATS was not closed in time")

    @property
    def _presence(self) -> str:
        return f"$KV.{subjects.GATEWAYS_BUCKET}.{self._outbox.gateway}"

    async def _tick_forever(self) -> None:
        loop = asyncio.get_running_loop()
        ticked = loop.time()
        while True:
            self.connected = self._client is not None and self._client.is_connected
            if not self.connected:
                self._admissions.probe_all()  # without NATS a lost replica cannot report that it is ready again
            if loop.time() - ticked > STOPPED_SECONDS:
                self._admissions.liveness.resume()
            elif not self.connected:
                self._admissions.liveness.reset()
            ticked = loop.time()
            self._admissions.liveness.check()
            for model in list(self._table.models.values()):
                self._outbox.demand(model)
                for replica in model.replicas.values():
                    replica.pool.sweep(loop.time())
                self._table.drop_if_gone(model)
            await asyncio.sleep(TICK_SECONDS)

    async def _on_replica(self, msg: Msg) -> None:
        _, _, namespace, name, _ = msg.subject.split(".")
        report = self._decoder.decode(Announcement, msg)
        if report is not None:
            self._admissions.on_report(namespace, name, report)

    async def _on_container(self, msg: Msg) -> None:
        _, _, namespace, name, _ = msg.subject.split(".")
        report = self._decoder.decode(ReplicaReport, msg)
        if report is not None:
            self._admissions.on_report(namespace, name, report)

    async def _on_progress(self, msg: Msg) -> None:
        _, _, namespace, name = msg.subject.split(".")
        model, progress = self._table.models.get((namespace, name)), self._decoder.decode(FetchProgress, msg)
        if model is not None and progress is not None:
            model.set_progress(progress)

    async def _on_solicit(self, msg: Msg) -> None:
        del msg
        if self._client is not None:
            await self._publish_presence(self._client)
        self._admissions.acknowledge_again()
        for model in self._table.models.values():
            self._outbox.demand(model)


async def _publish(client: Client, subject: str, payload: bytes = b"", headers: dict[str, str] | None = None) -> None:
    """Publish if NATS is connected; all of it is published again soon, or after the reconnection."""
    if not client.is_connected:
        return
    try:
        await client.publish(subject, payload, headers=headers)
    except (nats.errors.Error, OSError) as error:
        log.debug("not published on %s: %s", subject, error or type(error).__name__)
