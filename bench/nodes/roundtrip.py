"""Worker for round trips of one 64-byte descriptor between two processes.

`python -m nodes.roundtrip AGENT_SOCKET CORE [PEER_CORE]`. The paths `unix`, `sockmap`, `tcp` and `relay` (TCP with a
process between that receives and sends) are bare sockets with blocking calls: what the kernel costs. `endpoint-*` are
the same frames by `headrace.bus.endpoint`, with credits and checksums, in Python; its transport `tcp` has the agent's
router between.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from headrace.agent.connection import AgentConnection
from headrace.bus.client import join
from headrace.bus.frames import FRAME_BYTES, Frame, Kind
from headrace.bus.transport import StreamTransport

from .processes import say

Path_ = Literal["unix", "sockmap", "tcp", "relay"]
RAW: tuple[Path_, ...] = ("unix", "sockmap", "tcp", "relay")
TRANSPORTS: tuple[Literal["unix", "sockmap", "tcp"], ...] = ("unix", "sockmap", "tcp")
SECONDS = 10.0
Trips = Callable[[int], None]
"""Does a number of round trips."""


def forked(work: Callable[[int], None], core: int) -> int:
    """Run `work` in a process on a core; it gets the descriptor of a pipe whose other end is returned."""
    reading, writing = os.pipe()
    if os.fork():
        os.close(writing)
        return reading
    os.sched_setaffinity(0, {core})
    try:
        work(writing)
    finally:
        os._exit(0)


def _echo(connected: socket.socket, reply: bytes) -> None:
    send, receive = connected.send, connected.recv
    while receive(FRAME_BYTES):
        send(reply)


def _trips(connected: socket.socket, frame: bytes) -> Trips:
    """Frames are never split here: one is on the way at a time."""
    connected.setblocking(True)
    send, receive = connected.send, connected.recv

    def trips(count: int) -> None:
        for _ in range(count):
            send(frame)
            assert len(receive(FRAME_BYTES)) == FRAME_BYTES

    return trips


def _tcp_pair() -> tuple[socket.socket, socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        one = socket.create_connection(listener.getsockname())
        two = listener.accept()[0]
    for each in (one, two):
        each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return one, two


def _relay(one: socket.socket, two: socket.socket) -> None:
    while data := one.recv(FRAME_BYTES):
        two.send(data)
        one.send(two.recv(FRAME_BYTES))


def bare(path: Path_, agent: Path, core: int) -> Trips:
    """Return a round trip over bare sockets."""
    frame = Frame(Kind.UPDATE, 1, 2, 1).encode()
    if path == "sockmap":
        return _bare_sockmap(agent, core)
    if path == "unix":
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    else:
        ours, theirs = _tcp_pair()
    if path == "relay":
        inner, far = _tcp_pair()
        middle, theirs = theirs, far
        forked(lambda _: _relay(middle, inner), core)
    forked(lambda _: _echo(theirs, frame), core)
    return _trips(ours, frame)


def _bare_sockmap(agent: Path, core: int) -> Trips:
    endpoint = join(AgentConnection(agent), "sockmap")

    def echo(writing: int) -> None:
        with join(AgentConnection(agent), "sockmap") as peer:
            os.write(writing, peer.id.to_bytes(4, "little"))
            _echo(_socket(peer.transport), Frame(Kind.UPDATE, endpoint.id, peer.id, 1).encode())

    id_ = int.from_bytes(os.read(forked(echo, core), 4), "little")
    trips = _trips(_socket(endpoint.transport), Frame(Kind.UPDATE, id_, endpoint.id, 1).encode())
    trips.endpoint = endpoint  # type: ignore[attr-defined] # keeps the session open
    return trips


def _socket(transport: object) -> socket.socket:
    assert isinstance(transport, StreamTransport)
    transport.socket.setblocking(True)
    return transport.socket


def by_endpoint(transport: Literal["unix", "sockmap", "tcp"], agent: Path, core: int) -> Trips:
    """Return a round trip of two endpoints."""

    def echo(writing: int) -> None:
        with join(AgentConnection(agent), transport) as peer:
            os.write(writing, peer.id.to_bytes(4, "little"))
            while (frame := peer.receive()) is not None:
                peer.send(frame.src, Kind.UPDATE)

    id_ = int.from_bytes(os.read(forked(echo, core), 4), "little")
    endpoint = join(AgentConnection(agent), transport)

    def trips(count: int) -> None:
        for _ in range(count):
            endpoint.send(id_, Kind.UPDATE)
            assert endpoint.receive(SECONDS) is not None

    return trips


def main() -> None:
    """Take the measurements: for each request, the seconds of one round trip on average of `trips` of them."""
    agent, core = Path(sys.argv[1]), int(sys.argv[2])
    peer_core = int(sys.argv[3])
    os.sched_setaffinity(0, {core})
    paths: dict[str, Trips] = {}
    for path in RAW:
        paths[path] = bare(path, agent, peer_core)
    for transport in TRANSPORTS:
        paths[f"endpoint-{transport}"] = by_endpoint(transport, agent, peer_core)
    say(list(paths))
    for line in sys.stdin:
        request = json.loads(line)
        trips = paths[request["path"]]
        began = time.perf_counter()
        trips(request["trips"])
        say((time.perf_counter() - began) / request["trips"])


if __name__ == "__main__":
    main()
