"""Serves the API on a Unix socket that only this user can open."""

from __future__ import annotations

import asyncio
import os
import socket
from pathlib import Path

import uvicorn
from starlette.types import ASGIApp

from headrace.local.home import home_fault
from headrace.unix_socket import address_of

BACKLOG = 128
MAX_CONNECTIONS = 512
"""Each watch and each followed log uses one; further connections get a 503."""
GRACE_SECONDS = 2
"""How long requests in flight may take when the server stops; streams have ended before."""
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
                timeout_graceful_shutdown=GRACE_SECONDS,
            )
        )

    async def run(self, listening: asyncio.Event) -> None:
        """Serve until `stop`; sets the event once clients can connect."""
        listener = _listen(self._path)
        listening.set()  # from now on, clients wait in the backlog at worst
        try:
            await self._server._serve([listener])  # noqa: SLF001 - `serve` would replace our signal handlers
        finally:
            listener.close()
            self._path.unlink(missing_ok=True)

    def stop(self) -> None:
        """Let the requests in flight finish, and return from `run`."""
        self._server.should_exit = True


def _listen(path: Path) -> socket.socket:
    """Return the listening socket. An existing file is unused: this process holds the instance's lock."""
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
