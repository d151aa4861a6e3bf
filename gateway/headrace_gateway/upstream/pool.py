"""The connections to one replica.

Their number needs no bound of its own: a replica gets at most as many requests at once as its capacity.
"""

from __future__ import annotations

import asyncio
import socket

from headrace_gateway.upstream.connection import ConnectFailed, Connection, ReplicaUnresponsive, Unreachable

CONNECT_SECONDS = 2.0
"""A replica is in the same cluster or on the same machine; one that does not answer by then is unreachable."""
IDLE_SECONDS = 50.0
"""An idle connection is closed before the replica closes it (75 s with our runtimes, 60 s with most others)."""
KEEP_ALIVE_IDLE_SECONDS = 10
KEEP_ALIVE_INTERVAL_SECONDS = 5
KEEP_ALIVE_PROBES = 3
USER_TIMEOUT_MILLISECONDS = 25_000
"""A generation may send nothing for minutes, so there is no time limit for the first byte. A machine that is lost is
detected by the kernel instead: by TCP keep-alive probes (10 s + 3 x 5 s) or, while sent data is not acknowledged and
no probes are sent, by the user timeout. A process that hangs is detected by `headrace_gateway.liveness`."""


class Pool:
    """Keep-alive connections to one address. Those that carry an exchange are `busy`."""

    def __init__(self, host: str, port: int) -> None:
        self.closed_by_replica = False
        """Whether the replica has closed a connection unexpectedly: its process may have exited, and another one may
        have its address."""
        self._host = host
        self._port = port
        self._idle: list[Connection] = []
        self._busy: set[Connection] = set()

    def idle(self) -> Connection | None:
        """Return the connection that was used last, or None."""
        while self._idle:
            connection = self._idle.pop()
            if connection.reusable:
                self._busy.add(connection)
                return connection
            self._drop(connection)
        return None

    async def connect(self) -> Connection:
        """Return a new connection. Raises ConnectFailed, Unreachable."""
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                transport, connection = await loop.create_connection(lambda: Connection(loop), self._host, self._port)
        except TimeoutError:
            raise Unreachable(f"no connection to {self._host}:{self._port} within {CONNECT_SECONDS:.0f} s") from None
        except OSError as error:
            kind = ConnectFailed if isinstance(error, ConnectionRefusedError) else Unreachable
            raise kind(f"{self._host}:{self._port}: {error.strerror or error}") from error
        except ValueError as error:  # a reported host may be any text
            raise ConnectFailed(f"{self._host!r} is no host: {error}") from error
        _keep_alive(transport.get_extra_info("socket"))
        self._busy.add(connection)
        return connection

    def give_back(self, connection: Connection) -> None:
        """Keep the connection for the next request if it can carry one, else close it at once."""
        self._busy.discard(connection)
        if connection.reusable:
            self._idle.append(connection)
        else:
            self._drop(connection)

    def sweep(self, now: float) -> None:
        """Close connections that have been idle for too long."""
        kept = []
        for connection in self._idle:
            if connection.reusable and now - connection.idle_since < IDLE_SECONDS:
                kept.append(connection)
            else:
                self._drop(connection)
        self._idle = kept

    def renew(self) -> None:
        """Close all present connections: idle ones now, the others after their exchange."""
        for connection in self._idle:
            connection.abort()
        self._idle = []
        for connection in self._busy:
            connection.last = True

    def received_any(self) -> bool:
        """Return whether any exchange has received bytes since the last call."""
        received = False
        for connection in self._busy:
            received |= connection.received
            connection.received = False
        return received

    def fail_busy(self, why: str) -> None:
        """End every exchange with ReplicaUnresponsive."""
        for connection in list(self._busy):
            connection.lose(ReplicaUnresponsive(why, answered=True))

    def _drop(self, connection: Connection) -> None:
        self.closed_by_replica |= connection.closed_by_replica
        connection.abort()


def _keep_alive(connected: socket.socket) -> None:
    connected.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, KEEP_ALIVE_IDLE_SECONDS)
    connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, KEEP_ALIVE_INTERVAL_SECONDS)
    connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, KEEP_ALIVE_PROBES)
    connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, USER_TIMEOUT_MILLISECONDS)
