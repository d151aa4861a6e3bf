"""One gateway process: its parts, and how it starts and stops.

It serves before NATS is connected: the copy on disk is loaded first, then the socket is opened. On SIGTERM it accepts
no new connections, finishes requests in flight within the grace period, and exits.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import socket

from headrace.http.local import LocalOnly, is_loopback
from headrace.http.protocol import Guard
from headrace.http.server import http_server
from headrace_gateway.access import AccessLog
from headrace_gateway.admission import Admissions
from headrace_gateway.control import METRICS_PATH, control_app, metrics_app
from headrace_gateway.disk import DiskCopy
from headrace_gateway.inference import Inference
from headrace_gateway.link import Link
from headrace_gateway.metrics import GatewayMetrics
from headrace_gateway.operations import OperationTable
from headrace_gateway.outbox import Outbox
from headrace_gateway.settings import Settings
from headrace_gateway.table import Table

log = logging.getLogger(__name__)

CLOSE_SECONDS = 1.0
"""End of the grace period, for errors to reach the clients whose requests were aborted."""


async def run(
    settings: Settings,
    listener: socket.socket,
    metrics_listener: socket.socket | None,
    access: AccessLog,
    operations: OperationTable,
) -> None:
    """Serve until SIGTERM or SIGINT. Metrics are served on `metrics_listener`; None: on `listener`, if it is local."""
    disk = DiskCopy(settings.state_directory)
    outbox = Outbox(disk.gateway)
    table = Table(settings.anonymous_namespace, outbox.demand)
    disk.load(table)
    metrics = GatewayMetrics(table.models.values)
    host, port = listener.getsockname()[:2]
    beside = metrics if metrics_listener is None and is_loopback(host) else None
    control = control_app(table, beside, operations)
    inference = Inference(table, control, metrics, access, settings.max_body_bytes, operations)
    server = http_server(inference, grace_seconds=settings.grace_seconds, guard=guard_of(settings, listener, table))
    metrics_server = http_server(
        metrics_app(metrics), grace_seconds=0, guard=guard_of(settings, metrics_listener, None)
    )
    loop = asyncio.get_running_loop()

    def stop() -> None:
        if server.should_exit:
            inference.abort_all()  # a second signal
        server.should_exit = True
        loop.call_later(max(0.0, settings.grace_seconds - CLOSE_SECONDS), inference.abort_all)

    for signal_number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signal_number, stop)
    async with asyncio.TaskGroup() as tasks:
        admissions = Admissions(table, outbox, tasks, settings.pod_networks)
        admissions.probe_all()
        background = [
            tasks.create_task(Link(settings, table, outbox, admissions).run()),
            tasks.create_task(disk.run(table)),
        ]
        if metrics_listener is not None:
            tasks.create_task(metrics_server.serve(sockets=[metrics_listener]))
            log.info("metrics are served on %s:%d", *metrics_listener.getsockname()[:2])
        log.info("%s serves on %s:%d", disk.gateway, host, port)
        await server.serve(sockets=[listener])
        metrics_server.should_exit = True
        for task in background:
            task.cancel()


def guard_of(settings: Settings, listener: socket.socket | None, table: Table | None) -> Guard | None:
    """Return the Host and Origin check of a loopback listener: for metrics, and for every path while no key exists."""
    if listener is None or not is_loopback(listener.getsockname()[0]):
        return None

    def applies(path: str) -> bool:
        return table is None or table.keyless or path == METRICS_PATH

    return LocalOnly(settings.allowed_hosts, settings.allowed_origins, applies).objection
