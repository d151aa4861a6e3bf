"""The agent's process: starts its parts, serves until SIGTERM, and ends them in the reverse order."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import time
from collections.abc import AsyncIterator, Iterator

from headrace.agent.errors import AgentUnavailable
from headrace.bus.errors import EbpfUnavailable
from headrace.bus.router import Router
from headrace.errors import CannotStart
from headrace.http.server import http_server, listen
from headrace_node.admin import TENANT, AdminVerbs
from headrace_node.bus import AgentBus
from headrace_node.metrics import NodeMetrics
from headrace_node.pins import keep_pinned
from headrace_node.server import AgentServer
from headrace_node.settings import AgentSettings
from headrace_node.sockmap import Sockmap
from headrace_node.store.accounts import Limits
from headrace_node.store.keeping import NO_KEEPER, Keeper, Keeping
from headrace_node.store.memory import descriptor_limit, offered_pages
from headrace_node.store.objects import ObjectStore
from headrace_node.store.verbs import StoreVerbs
from headrace_node.volumes import Volumes
from headrace_node.web import web_app

log = logging.getLogger(__name__)

VOLUMES = "volumes"
"""Directory of the pods' volumes in the socket directory."""
KEEPER_SECONDS = 10.0
"""How long to wait for the keeper, which starts at the same time."""
POLL_SECONDS = 0.02


def run(settings: AgentSettings) -> None:
    """Run the agent until SIGTERM or SIGINT. Raises HeadraceError or OSError if it cannot start."""
    descriptor_limit()
    signal.signal(signal.SIGIO, signal.SIG_IGN)  # sent when a client opens a segment during `memory.is_held`
    asyncio.run(_run(settings))


async def _run(settings: AgentSettings) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    store = ObjectStore(_limits(settings), offered_pages(hugetlb=settings.huge_pages), _keeping(settings))
    async with store, AgentServer() as server, AgentServer() as operators:
        with _bus(server, settings) as bus:
            StoreVerbs(store).register(server)
            volumes = Volumes(server, settings.socket_directory / VOLUMES)
            volumes.restore()
            AdminVerbs(volumes, store).register(operators)
            operators.listen(settings.admin_socket, TENANT, "admin")
            async with (
                _pinning(settings, store),
                _web(settings, NodeMetrics(server, volumes, store, bus)),  # last: then all of it is usable
            ):
                log.info("ready at %s with %d objects", settings.socket_directory, store.counters.adopted)
                await stop.wait()
                log.info("stopping")


@contextlib.contextmanager
def _bus(server: AgentServer, settings: AgentSettings) -> Iterator[AgentBus]:
    """Run the descriptor bus, in the kernel if that is allowed. Raises CannotStart."""
    sockmap, why_not = None, ""
    try:
        sockmap = Sockmap()
    except EbpfUnavailable as error:
        why_not = error.message
        log.info("descriptors are forwarded by the agent, not by the kernel: %s", error)
    router = Router()
    try:
        try:
            address = router.listen(settings.bus_host, settings.bus_port)
        except OSError as error:
            raise CannotStart(
                f"cannot listen on {settings.bus_host}:{settings.bus_port}: {error.strerror}",
                hint="Choose another --bus-port or --bus-host",
            ) from error
        bus = AgentBus(server, router, address, sockmap, why_not)
        try:
            yield bus
        finally:
            bus.close()
    finally:
        router.stop()
        if sockmap is not None:
            sockmap.close()


def _limits(settings: AgentSettings) -> Limits:
    """Return the quotas. Raises CannotStart if they exceed the node or each other."""
    limits = Limits(
        total_bytes=settings.store_bytes,
        tenant_bytes=settings.tenant_bytes,
        tenants=settings.tenants,
        classes=settings.class_bytes,
        pool_bytes=settings.pool_bytes,
    )
    limits.check(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    return limits


def _keeping(settings: AgentSettings) -> Keeping:
    """Return the keeper, once it listens. Raises CannotStart if it does not."""
    if not settings.keeper:
        return NO_KEEPER
    deadline = time.monotonic() + KEEPER_SECONDS
    while True:
        try:
            return Keeper(settings.keeper_socket)
        except AgentUnavailable as error:
            if time.monotonic() > deadline:
                raise CannotStart(str(error.message), hint="Start `headrace-node keeper` beside the agent") from error
        time.sleep(POLL_SECONDS)


@contextlib.asynccontextmanager
async def _pinning(settings: AgentSettings, store: ObjectStore) -> AsyncIterator[None]:
    """Pin the objects of a list, if the settings have one."""
    if settings.kept_objects is None:
        yield
        return
    task = asyncio.create_task(keep_pinned(store, settings.kept_objects))
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])


@contextlib.asynccontextmanager
async def _web(settings: AgentSettings, metrics: NodeMetrics) -> AsyncIterator[None]:
    """Serve metrics and health, if the settings have a port for them. Raises CannotStart."""
    if settings.metrics_port is None:
        yield
        return
    listener = listen(settings.metrics_host, settings.metrics_port, option_prefix="metrics-")
    server = http_server(web_app(metrics.exposition), grace_seconds=0)
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        yield
    finally:
        server.should_exit = True
        await serving
