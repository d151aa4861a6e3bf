"""One operator process: its parts, and how it starts, leads and stops.

    kopf fills the index  →  NATS  →  the Lease is acquired  →  the reconcile loop runs  →  SIGTERM  →  Lease released

A replica without the Lease watches too, so that it can start without a list; it writes nothing. When the Lease is lost
the process exits, and the kubelet restarts it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
from collections.abc import Coroutine
from typing import Any

from nats.aio.client import Client

from headrace.control.loop import ControlLoop
from headrace.events.connection import connect
from headrace_operator.client import ApiServer
from headrace_operator.connection import Connection
from headrace_operator.health import Health
from headrace_operator.lease import Lease
from headrace_operator.metrics import LEADER
from headrace_operator.namespaces import Namespaces
from headrace_operator.settings import Settings
from headrace_operator.watching import Watching
from headrace_operator.world import KubernetesWorld

log = logging.getLogger(__name__)

CLOSE_SECONDS = 1.0
"""For the NATS client to close."""


async def run(settings: Settings) -> None:
    """Run until SIGTERM or SIGINT. Raises CannotStart if kopf ends by itself, and errors of the loop."""
    connection = Connection.find(settings.pod_name)
    stop = asyncio.Event()

    def handle_signals() -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)

    handle_signals()
    async with ApiServer(connection) as api, Health(settings.health_port, lambda: connection.answered_at) as health:
        world = KubernetesWorld(api, settings.pod_name, settings.watch_namespaces)
        watching = Watching(api, world.index, settings.watch_namespaces)
        operator = _Operator(settings, api, world, watching, health)
        # kopf installs signal handlers when it starts and would end before the Lease is released: they are replaced.
        await _until_first(stop.wait(), operator.run(), watching.audit(), watching.watch(handle_signals))


async def _until_first(*parts: Coroutine[Any, Any, Any]) -> None:
    """Run all until one ends; then cancel the others in this order, and raise the first error."""
    tasks = [asyncio.create_task(part) for part in parts]
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    failed: list[BaseException] = []
    for task in tasks:
        task.cancel()
        await asyncio.wait((task,))
        if not task.cancelled() and (error := task.exception()) is not None:
            failed.append(error)
    if failed:
        raise failed[0]


class _Operator:
    """Runs the operator from the first list to the release of the Lease."""

    def __init__(
        self, settings: Settings, api: ApiServer, world: KubernetesWorld, watching: Watching, health: Health
    ) -> None:
        self._settings = settings
        self._api = api
        self._world = world
        self._watching = watching
        self._health = health
        self._lease = Lease(api, settings.namespace, settings.lease_name, settings.pod_name)
        self._loop: ControlLoop | None = None
        self._namespaces: Namespaces | None = None

    async def run(self) -> None:
        """Wait for the Lease and lead, until cancelled."""
        settings = self._settings
        await self._watching.filled.wait()
        self._health.ready = True
        log.info("the index is filled")
        client = await connect(
            settings.nats_url,
            name=settings.pod_name,
            user=settings.nats_user,
            password=settings.nats_password,
            on_reconnect=self._reconnected,
        )
        try:
            await self._lease.acquire()
            try:
                await self._lead(client)
            finally:
                LEADER.set(0)
                await self._lease.release()
        finally:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(CLOSE_SECONDS):
                    await client.close()

    async def _lead(self, client: Client) -> None:
        settings = self._settings
        self._api.guard = self._lease.check
        # A resumed process checks the Lease first: messages on NATS pass no guard. Python runs this handler at once,
        # not in a later turn of the event loop.
        signal.signal(signal.SIGCONT, lambda *_: self._lease.check())
        self._namespaces = Namespaces(self._api, client, settings.runtime_key, settings.models)
        self._world.lead(self._namespaces)
        self._loop = ControlLoop(self._world, client, settings.rules())
        self._health.stuck_seconds = self._loop.stuck_seconds
        LEADER.set(1)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._lease.keep())
            tasks.create_task(self._namespaces.keep_admitted())
            tasks.create_task(self._namespaces.keep_provided())
            for scope in settings.watch_namespaces or (None,):
                tasks.create_task(self._namespaces.watch_logins(scope))
            tasks.create_task(self._world.key_warnings.run())
            if settings.kept_configmap is not None:
                tasks.create_task(self._world.kept_objects.run(settings.namespace, settings.kept_configmap))
            tasks.create_task(self._loop.run())

    def _reconnected(self) -> None:
        if self._loop is not None:
            self._loop.reconnected()
        if self._namespaces is not None:
            self._namespaces.reconnected()
