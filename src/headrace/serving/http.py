"""uvicorn, embedded: our process decides about signals, sockets and logs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn
from starlette.types import ASGIApp
from typing_extensions import override

KEEP_ALIVE_SECONDS = 75
"""Longer than clients and gateways keep idle connections, so that it is they who close them."""


class EmbeddedServer(uvicorn.Server):
    """A server that leaves signals to its owner."""

    @contextmanager
    @override
    def capture_signals(self) -> Iterator[None]:
        """Capture none."""
        yield


def embedded_server(app: ASGIApp) -> EmbeddedServer:
    """Return a server for the application; run it with `serve(sockets=[…])`, stop it with `should_exit`."""
    return EmbeddedServer(
        uvicorn.Config(
            app,
            log_config=None,
            log_level="warning",
            access_log=False,
            http="httptools",
            ws="none",
            lifespan="off",
            server_header=False,
            date_header=False,
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
        )
    )
