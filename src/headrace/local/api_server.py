"""The Unix socket on which the API is served, for this user alone."""

from __future__ import annotations

import asyncio
import os
import socket
from pathlib import Path

import uvicorn
from starlette.types import ASGIApp

from headrace.local.home import home_fault
from headrace.local.unix_socket import address_of

BACKLOG = 128
MAX_CONNECTIONS = 512
"""Watches and followed logs keep one each; more are answered with 503."""
GOODBYE_SECONDS = 2
"""How long requests in flight may take at the end; the streams have been ended before."""
_OWNER_ONLY = 0o177


class ApiServer:
    """Serves an application on the socket."""

    def __init__(self, app: ASGIApp, path: Path) -> None:
        self._path = path
        self._server = uvicorn.Server(
            uvicorn.Config(
                app,
                log_config=None,
                access_log=False,
                lifespan="off",
                server_header=False,
                ws="none",
                limit_concurrency=MAX_CONNECTIONS,
                timeout_graceful_shutdown=GOODBYE_SECONDS,
            )
        )

    async def run(self, listening: asyncio.Event) -> None:
        """Serve until `stop`; sets the event once clients are let in."""
        listener = _listen(self._path)
        listening.set()  # from now on they wait in the backlog at worst
        try:
            await self._server._serve([listener])  # noqa: SLF001 - `serve` would take our signals
        finally:
            listener.close()
            self._path.unlink(missing_ok=True)

    def stop(self) -> None:
        """Let the requests in flight finish, and return from `run`."""
        self._server.should_exit = True


def _listen(path: Path) -> socket.socket:
    """Return the listening socket. A socket file that is there is a dead one: the instance's lock is ours."""
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(_OWNER_ONLY)
    try:
        with address_of(path) as address:
            listener.bind(address)
    except OSError as error:
        listener.close()
        raise home_fault(error, what=f"cannot make the socket {path}") from error
    finally:
        os.umask(before)
    listener.listen(BACKLOG)
    listener.setblocking(False)
    return listener
