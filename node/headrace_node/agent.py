"""The agent's process: starts its parts, serves until SIGTERM, and ends them in the reverse order."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
from collections.abc import AsyncIterator

from headrace.http.server import http_server, listen
from headrace_node import admin
from headrace_node.metrics import NodeMetrics
from headrace_node.server import AgentServer
from headrace_node.settings import AgentSettings
from headrace_node.volumes import Volumes
from headrace_node.web import web_app

log = logging.getLogger(__name__)

VOLUMES = "volumes"
"""Directory of the pods' volumes in the socket directory."""


def run(settings: AgentSettings) -> None:
    """Run the agent until SIGTERM or SIGINT. Raises HeadraceError or OSError if it cannot start."""
    asyncio.run(_run(settings))


async def _run(settings: AgentSettings) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    settings.socket_directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    async with AgentServer() as server, AgentServer() as operators:
        volumes = Volumes(server, settings.socket_directory / VOLUMES)
        admin.register(operators, volumes)
        volumes.restore()
        operators.listen(settings.admin_socket, admin.TENANT, "admin")
        async with _web(settings, NodeMetrics(server, volumes)):  # last: then all of it is usable
            log.info("ready at %s", settings.socket_directory)
            await stop.wait()
            log.info("stopping")


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
