"""uvicorn, embedded: without its own signals, sockets and logs, and with headrace's protocol."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import uvicorn
from starlette.types import ASGIApp
from typing_extensions import override

from headrace.errors import CannotStart
from headrace.http.protocol import Guard, HttpProtocol

KEEP_ALIVE_SECONDS = 75
"""Of idle connections; SDKs, proxies and gateways close theirs at 60 s or earlier, so that the client side closes."""


BACKLOG = 1024
"""Connections that wait to be accepted (the kernel caps it at net.core.somaxconn)."""


class EmbeddedServer(uvicorn.Server):
    """A server that does not handle signals."""

    @contextmanager
    @override
    def capture_signals(self) -> Iterator[None]:
        """Capture no signals."""
        yield


def http_server(
    app: ASGIApp,
    *,
    grace_seconds: float | None = None,
    guard: Guard | None = None,
    write_seconds: float | None = None,
) -> EmbeddedServer:
    """Return a server for the application; run it with `serve(sockets=[…])`, stop it with `should_exit`.

    Args:
        app: the application.
        grace_seconds: after `should_exit`, the time for requests in flight; None: no limit.
        guard: returns the error of a request that is not served.
        write_seconds: how long a client may read nothing; None: `headrace.http.writing.WRITE_SECONDS`.
    """
    protocol: Any = partial(HttpProtocol, guard=guard, write_seconds=write_seconds)  # uvicorn only calls it
    return EmbeddedServer(
        uvicorn.Config(
            app,
            log_config=None,
            log_level="warning",
            access_log=False,
            http=protocol,
            ws="none",
            lifespan="off",
            proxy_headers=False,  # nothing depends on the client's address, and it would cost an await per request
            server_header=False,
            date_header=False,
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=None if grace_seconds is None else int(grace_seconds) + 1,
        )
    )


def listen(host: str, port: int, *, option_prefix: str = "") -> socket.socket:
    """Return a socket that listens on a TCP port. Raises CannotStart.

    `option_prefix` begins the names of the two options that the hint refers to: `--metrics-port`, `--metrics-host`.
    """
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family, backlog=BACKLOG)
    except OSError as error:
        option = "port" if error.errno == errno.EADDRINUSE else "host"
        cause = (error.strerror or str(error)).partition(" (while")[0]  # the standard library repeats the address
        raise CannotStart(
            f"cannot listen on {host}:{port}: {cause}", hint=f"Choose another --{option_prefix}{option}"
        ) from error
