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
from headrace_gateway.gateway import run
from headrace_gateway.settings import Settings

log = logging.getLogger(__name__)

BACKLOG = 1024


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the gateway; return the exit code."""
    settings = Settings.parse(arguments)
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    _allow_many_connections()
    try:
        listener = _listen(settings)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(run(settings, listener))
    except HeadraceError as error:
        log.error("%s", error)  # noqa: TRY400 - the message is the explanation; a trace would bury it
        return error.exit_code
    return 0


def _listen(settings: Settings) -> socket.socket:
    try:
        if settings.fd is not None:
            return socket.socket(fileno=settings.fd)
        family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
        return socket.create_server((settings.host, settings.port), family=family, backlog=BACKLOG)
    except OSError as error:
        where = f"fd {settings.fd}" if settings.fd is not None else f"{settings.host}:{settings.port}"
        raise CannotStart(
            f"cannot listen on {where}: {os.strerror(error.errno or 0)}", hint="Choose another --port or --host"
        ) from error


def _allow_many_connections() -> None:
    """Each request in flight is two connections; the usual soft limit of 1024 would be the gateway's limit."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


if __name__ == "__main__":
    sys.exit(main())
