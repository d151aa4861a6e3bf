"""The gateway as a process of the instance, on a socket that outlives it.

The supervisor binds and keeps the listening socket and passes it on. A gateway that dies takes its connections with it,
but not the door: who connects while it is restarted waits in the socket's backlog and is served a moment later.
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
from headrace.process import Process, spawn
from headrace.programs import find_program

DEFAULT_PORT = 8080
PORTS_TRIED = 100
"""From the default on; an eleventh instance on one machine still finds one, and a firewall sees a small range."""
BACKLOG = 1024
"""Connections that wait while the gateway is restarted (the kernel caps it at net.core.somaxconn)."""
ANONYMOUS_NAMESPACE = "default"
POD_NETWORKS = "127.0.0.0/8"
"""Each pod of local mode has an address of its own in it (`headrace.local.addresses`)."""
GRACE_SECONDS = 30.0
"""Time for running requests to finish at the end: as Kubernetes gives a pod."""
STOP_SECONDS = GRACE_SECONDS + 2.0
"""At the end of the grace it cuts off what still runs, by an error to each client; one that does not end is killed."""


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
                    hint="Give --host one of its addresses, or 0.0.0.0 for all of them",
                ) from error
            raise CannotStart(
                f"cannot listen on {host}:{candidate}: {os.strerror(error.errno or 0)}",
                hint="Give another --port, or none to take the next free one",
            ) from error
    raise CannotStart(
        f"every port from {DEFAULT_PORT} to {DEFAULT_PORT + PORTS_TRIED - 1} of {host} is taken",
        hint="Give a free one with --port",
    )


def endpoint_of(listener: socket.socket) -> str:
    """Return the URL by which this machine reaches the socket."""
    host, port = listener.getsockname()[:2]
    address = ip_address(host)
    if address.is_unspecified:
        host = "127.0.0.1" if address.version == 4 else "::1"  # noqa: PLR2004 - IP's version
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def needs_keys(host: str) -> bool:
    """Whether a gateway on that address serves no request without a key, even while there are none."""
    return not ip_address(host).is_loopback


def gateway(listener: socket.socket, state: Path, log: Path, nats_url: str, credentials: Credentials) -> Supervised:
    """Return the gateway on that socket, not yet started.

    Requests without a key are served on the loopback interface alone, where only this machine's users come from.
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
        return spawn(command, {**os.environ, **login}, log, pass_fds=(listener.fileno(),))

    return Supervised("gateway", start)


def _family(host: str) -> socket.AddressFamily:
    try:
        version = ip_address(host).version
    except ValueError as error:
        raise CannotStart(f"{host!r} is not an IP address", hint="Give one of this machine, e.g. 127.0.0.1") from error
    return socket.AF_INET6 if version == 6 else socket.AF_INET  # noqa: PLR2004 - IP's version
