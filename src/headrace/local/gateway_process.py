"""The gateway as a process of the instance, on a socket that outlives it.

The supervisor binds the listening socket, keeps it and passes it to the gateway. When the gateway exits, its
connections end, but the socket stays open: clients that connect during the restart wait in its backlog
and are served afterwards.
"""

from __future__ import annotations

import errno
import os
import socket
from ipaddress import ip_address
from pathlib import Path

from headrace import environment
from headrace.broker.config import Credentials
from headrace.errors import CannotStart
from headrace.local.supervised import Supervised
from headrace.local.variables import component_variables
from headrace.process import Process, spawn
from headrace.programs import find_program

DEFAULT_PORT = 8080
PORTS_TRIED = 100
"""From the default on: enough for many instances on one machine, and a small range for a firewall."""
BACKLOG = 1024
"""Connections that wait while the gateway is restarted (the kernel caps it at net.core.somaxconn)."""
ANONYMOUS_NAMESPACE = "default"
POD_NETWORKS = "127.0.0.0/8"
"""Each local pod has its own address in it (`headrace.local.addresses`)."""
GRACE_SECONDS = 30.0
"""How long requests in flight may take when the gateway stops, as in Kubernetes."""
STOP_SECONDS = GRACE_SECONDS + 2.0
"""After the grace period the gateway ends the remaining requests with an error; then it has 2 s to exit."""


def listen(host: str, port: int | None) -> socket.socket:
    """Return the listening socket: on that port, or (None) on 8080 or the next free one. Raises CannotStart."""
    candidates = (port,) if port is not None else range(DEFAULT_PORT, DEFAULT_PORT + PORTS_TRIED)
    for candidate in candidates:
        try:
            return socket.create_server((host, candidate), family=_family(host), backlog=BACKLOG)
        except OSError as error:
            if error.errno == errno.EADDRINUSE and port is None:
                continue
            if error.errno == errno.EADDRNOTAVAIL:
                raise CannotStart(
                    f"{host} is not an address of this machine",
                    hint="Set --host to one of its addresses, or to 0.0.0.0 for all of them",
                ) from error
            raise CannotStart(
                f"cannot listen on {host}:{candidate}: {os.strerror(error.errno or 0)}",
                hint="Set another --port, or leave it out to use the next free one",
            ) from error
    raise CannotStart(
        f"every port from {DEFAULT_PORT} to {DEFAULT_PORT + PORTS_TRIED - 1} of {host} is in use",
        hint="Set a free one with --port",
    )


def endpoint_of(listener: socket.socket) -> str:
    """Return the URL of the socket for clients on this machine."""
    host, port = listener.getsockname()[:2]
    address = ip_address(host)
    if address.is_unspecified:
        host = "127.0.0.1" if address.version == 4 else "::1"  # noqa: PLR2004 - IP's version
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def needs_keys(host: str) -> bool:
    """Whether a gateway on that address rejects requests without a key, even while no key exists."""
    return not ip_address(host).is_loopback


def gateway(listener: socket.socket, state: Path, log: Path, nats_url: str, credentials: Credentials) -> Supervised:
    """Return the gateway on that socket, not yet started.

    Requests without a key are served on a loopback address only, which other machines cannot reach.
    """
    program = find_program("headrace-gateway", hint="Install it: pip install 'headrace[gateway]'")
    command = [program, "--fd", str(listener.fileno()), "--state-directory", str(state)]
    command += ["--grace-seconds", str(GRACE_SECONDS)]
    if not needs_keys(listener.getsockname()[0]):
        command += ["--anonymous-namespace", ANONYMOUS_NAMESPACE]
    login = {
        environment.POD_NETWORKS: POD_NETWORKS,
        environment.NATS_URL: nats_url,
        environment.NATS_USER: credentials.user,
        environment.NATS_PASSWORD: credentials.password,
    }

    async def start() -> Process:
        return spawn(command, {**component_variables(), **login}, log, pass_fds=(listener.fileno(),))

    return Supervised("gateway", start)


def _family(host: str) -> socket.AddressFamily:
    try:
        version = ip_address(host).version
    except ValueError as error:
        raise CannotStart(
            f"{host!r} is not an IP address", hint="Set an address of this machine, for example 127.0.0.1"
        ) from error
    return socket.AF_INET6 if version == 6 else socket.AF_INET  # noqa: PLR2004 - IP's version
