"""`headrace-gateway`: the command."""

from __future__ import annotations

import asyncio
import logging
import os
import resource
import socket
import sys
from collections.abc import Sequence

import uvloop

from headrace.errors import CannotStart, HeadraceError
from headrace.http.server import listen
from headrace_gateway.access import AccessLog, LogHandler
from headrace_gateway.gateway import run
from headrace_gateway.operations import OPERATIONS, OperationTable
from headrace_gateway.settings import Settings

log = logging.getLogger(__name__)


def main(arguments: Sequence[str] | None = None, operations: OperationTable = OPERATIONS) -> int:
    """Run the gateway; return the exit code."""
    settings = Settings.parse(arguments)
    access = AccessLog(sys.stderr.fileno())
    logging.basicConfig(
        level=logging.INFO, handlers=[LogHandler(access)], format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    _allow_many_connections()
    try:
        listener = _inherit(settings.fd) if settings.fd is not None else listen(settings.host, settings.port)
        metrics_listener = None
        if settings.metrics_port is not None:
            host = settings.metrics_host or listener.getsockname()[0]
            metrics_listener = listen(host, settings.metrics_port, option_prefix="metrics-")
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(run(settings, listener, metrics_listener, access, operations))
    except HeadraceError as error:
        log.error("%s", error)  # noqa: TRY400 - the message is the explanation; a trace would bury it
        return error.exit_code
    finally:
        access.close()
    return 0


def _inherit(fd: int) -> socket.socket:
    try:
        return socket.socket(fileno=fd)
    except OSError as error:
        raise CannotStart(f"cannot listen on fd {fd}: {os.strerror(error.errno or 0)}") from error


def _allow_many_connections() -> None:
    """Each request in flight is two connections; the usual soft limit of 1024 would be the gateway's limit."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


if __name__ == "__main__":
    sys.exit(main())
