"""How a process of the node joins the bus of its agent."""

from __future__ import annotations

import socket
from typing import Literal

from headrace.agent.connection import AgentConnection
from headrace.bus.endpoint import Endpoint
from headrace.bus.frames import ROUTER
from headrace.bus.transport import StreamTransport
from headrace.bus.unix import UnixTransport

JOIN_UNIX = "bus.join-unix"
"""Verb: create an endpoint; the reply has its socket."""
JOIN_TCP = "bus.join-tcp"
"""Verb: return the address and the token with which a TCP connection joins."""
INSERT = "bus.insert"
"""Verb: put the message's descriptor, the endpoint's TCP connection, into the kernel's map."""


def join(
    connection: AgentConnection, transport: Literal["unix", "sockmap", "tcp"], *, reserved: int = ROUTER
) -> Endpoint:
    """Join the bus as a new endpoint of the session's tenant, or as the endpoint with the `reserved` id.

    The endpoint is closed when the session ends.

    Raises:
        AgentError: see `AgentConnection.call`.
        JoinRefused: the agent has no room for the endpoint, or the id is not reserved for the tenant.
        EbpfUnavailable: the transport is `sockmap`, and the agent may not use eBPF; `unix` works.
    """
    fields = {"reserved": reserved}
    if transport == "unix":
        received = connection.call(JOIN_UNIX, fields)
        return Endpoint(UnixTransport(socket.socket(fileno=received.fds[0])), connection)
    answer = connection.call(JOIN_TCP, {**fields, "sockmap": transport == "sockmap"}).body
    stream = StreamTransport((str(answer["host"]), int(answer["port"])), bytes.fromhex(str(answer["token"])))
    endpoint = Endpoint(stream, connection)
    if transport == "sockmap":
        try:
            connection.call(INSERT, {"id": endpoint.id}, [stream.fileno()])
        except BaseException:
            endpoint.close()
            raise
        stream.name = "sockmap"
    return endpoint
