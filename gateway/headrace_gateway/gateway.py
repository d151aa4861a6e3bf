"""One gateway process: its parts, and how it starts and stops.

It serves before NATS answers: what is on disk is loaded first, then the socket is opened, and the rest follows. On
SIGTERM it takes no new connections, finishes what runs within the grace period, and leaves.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
import sys

from headrace_gateway.access import AccessLog
from headrace_gateway.admission import Admissions
from headrace_gateway.control import control_app
from headrace_gateway.disk import DiskCopy
from headrace_gateway.inference import Inference
from headrace_gateway.link import Link
from headrace_gateway.metrics import GatewayMetrics
from headrace_gateway.outbox import Outbox
from headrace_gateway.server import gateway_server
from headrace_gateway.settings import Settings
from headrace_gateway.table import Table

log = logging.getLogger(__name__)

FAREWELL_SECONDS = 1.0
"""Of the grace period, for errors to reach the clients of what had to be cut off."""


async def run(settings: Settings, listener: socket.socket) -> None:
    """Serve until SIGTERM or SIGINT."""
    disk = DiskCopy(settings.state_directory)
    outbox = Outbox(disk.gateway)
    table = Table(settings.anonymous_namespace, outbox.demand)
    disk.load(table)
    metrics = GatewayMetrics(table.models.values)
    access = AccessLog(sys.stderr)
    inference = Inference(table, control_app(table, metrics), metrics, access, settings.max_body_bytes)
    server = gateway_server(inference, settings.grace_seconds)
    loop = asyncio.get_running_loop()

    def stop() -> None:
        if server.should_exit:
            inference.abort_all()  # told twice
        server.should_exit = True
        loop.call_later(max(0.0, settings.grace_seconds - FAREWELL_SECONDS), inference.abort_all)

    for signal_number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signal_number, stop)
    try:
        async with asyncio.TaskGroup() as tasks:
            admissions = Admissions(table, outbox, tasks)
            admissions.probe_all()
            background = [
                tasks.create_task(Link(settings, table, outbox, admissions).run()),
                tasks.create_task(disk.run(table)),
            ]
            host, port = listener.getsockname()[:2]
            log.info("%s serves on %s:%d", disk.gateway, host, port)
            await server.serve(sockets=[listener])
            for task in background:
                task.cancel()
    finally:
        access.flush()
