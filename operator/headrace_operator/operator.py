"""One operator process: its parts, and how it starts, leads and stops.

    watching (kopf) fills the index  →  NATS  →  the Lease is had  →  the reconcile loop runs  →  SIGTERM  →  Lease back

A replica without the Lease watches too, so that it needs no list when its turn comes; it writes nothing. Losing the
Lease ends the process, and the kubelet starts a new one.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import time
from typing import Any

from nats.aio.client import Client

from headrace.control.loop import ControlLoop
from headrace.errors import CannotStart
from headrace.events.connection import connect
from headrace.reconcile.world import Settings as Rules
from headrace_operator.client import ApiError, ApiServer
from headrace_operator.health import Health
from headrace_operator.lease import Lease
from headrace_operator.metrics import LEADER
from headrace_operator.namespaces import Namespaces
from headrace_operator.settings import Settings
from headrace_operator.watching import Watching
from headrace_operator.world import KubernetesWorld

log = logging.getLogger(__name__)

MODELS_DIRECTORY = "/models"
FILL_RETRY_SECONDS = 2.0
ALLOWED_SCHEMES = frozenset({"package", "https", "pvc"})
"""file:// would be a file of whichever node a pod happens to run on."""


async def run(settings: Settings) -> None:
    """Run until SIGTERM or SIGINT. Raises CannotStart when kopf ends by itself, and whatever the loop failed of."""
    async with ApiServer(settings.pod_name) as api, Health(settings.health_port, lambda: api.answered) as health:
        world = KubernetesWorld(api, settings.pod_name)
        watching = Watching(api, world.index, settings.watch_namespaces)
        ready, stop_watching, stop = asyncio.Event(), asyncio.Event(), asyncio.Event()
        eyes = asyncio.create_task(watching.watch(ready, stop_watching))
        await _first(eyes, asyncio.create_task(ready.wait()))
        for number in (signal.SIGTERM, signal.SIGINT):  # kopf has taken them, and would end before the Lease is back
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        life = asyncio.create_task(_Life(settings, api, world, watching, health).live())
        audit = asyncio.create_task(watching.audit())
        await _first(eyes, life, audit, asyncio.create_task(stop.wait()))
        kopf_failed = eyes.done()
        for task in (life, audit):
            task.cancel()
        results = await asyncio.gather(life, audit, return_exceptions=True)
        stop_watching.set()
        await asyncio.wait([eyes])
        for result in results:
            if isinstance(result, Exception):
                raise result
        if kopf_failed:
            raise CannotStart("kopf ended by itself", hint="Its log tells why")


async def _first(*tasks: asyncio.Task[Any]) -> None:
    """Return when one of the tasks is done."""
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)


class _Life:
    """From the first list to the last renewal."""

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

    async def live(self) -> None:
        """Wait for the Lease and lead, until cancelled."""
        settings = self._settings
        await self._fill()
        self._health.ready = True
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
            await client.close()

    async def _lead(self, client: Client) -> None:
        settings = self._settings
        self._api.guard = self._lease.check
        self._namespaces = Namespaces(self._api, client, settings.runtime_key, settings.models)
        self._world.lead(self._namespaces)
        self._loop = ControlLoop(self._world, client, rules(settings))
        LEADER.set(1)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._lease.keep())
            tasks.create_task(self._namespaces.keep_admitted())
            tasks.create_task(self._loop.run())

    async def _fill(self) -> None:
        """Read what there is, however long the API server takes."""
        while True:
            began = time.monotonic()
            try:
                await self._watching.fill()
            except ApiError as error:
                log.warning("cannot read what there is: %s", error)
                await asyncio.sleep(FILL_RETRY_SECONDS)
                continue
            log.info("read what there is in %.1f s", time.monotonic() - began)
            return

    def _reconnected(self) -> None:
        if self._loop is not None:
            self._loop.reconnected()
        if self._namespaces is not None:
            self._namespaces.reconnected()


def rules(settings: Settings) -> Rules:
    """Return what the pure rules may know of this world."""
    return Rules(
        gateway_url=settings.gateway_url,
        nats_url=settings.nats_url,
        models_directory=MODELS_DIRECTORY,
        models_claim=settings.models.name,
        runtime_image=settings.runtime_image,
        runtime_image_cuda=settings.runtime_image_cuda,
        fetch_image=settings.fetch_image,
        image_pull_secrets=settings.image_pull_secrets,
        platform_namespace=settings.namespace,
        fetch_env=settings.fetch_environment,
        ca_bundle_configmap=settings.ca_bundle_configmap,
        pod_security=True,
        allowed_schemes=ALLOWED_SCHEMES,
    )
