"""The user-space router alone: TCP without an agent, links between nodes, and every bound."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import TypeVar

import pytest

from headrace.bus import router as module
from headrace.bus.endpoint import Endpoint
from headrace.bus.errors import BusClosed, JoinRefused, PeerUnreachable, RouteForbidden
from headrace.bus.frames import ErrorCode, Frame, FrameBuffer, Kind
from headrace.bus.router import ACTIVATION_FRAMES, Router
from headrace.bus.transport import StreamTransport
from headrace.bus.wire import QUEUED_FRAMES, Wire

SOON = 5.0
UPDATE = Kind.UPDATE
T = TypeVar("T")


class Node:
    """A router in its own thread, as in a process that has no agent."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever)
        self.thread.start()
        self.activated: list[int] = []
        self.router = self.do(lambda: Router(activate=self.activated.append))
        self.address = self.do(lambda: self.router.listen("127.0.0.1"))
        self.endpoints: list[Endpoint] = []

    def do(self, work: Callable[[], T]) -> T:
        async def call() -> T:
            return work()

        return asyncio.run_coroutine_threadsafe(call(), self.loop).result(SOON)

    def join(self, tenant: str = "a") -> Endpoint:
        endpoint = Endpoint(StreamTransport(self.address, self.do(lambda: self.router.expect(tenant))))
        self.endpoints.append(endpoint)
        return endpoint

    def link(self, name: str, other: Node, other_name: str) -> None:
        token = other.do(lambda: other.router.expect_link(other_name))
        linking = self.router.link(name, other.address, token)
        asyncio.run_coroutine_threadsafe(linking, self.loop).result(SOON)

    def stop(self) -> None:
        for endpoint in self.endpoints:
            endpoint.close()
        self.do(self.router.stop)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join()
        self.loop.close()


@pytest.fixture
def nodes() -> Iterator[list[Node]]:
    """Two nodes; the first has connected to the second."""
    started = [Node(), Node()]
    started[0].link("second", started[1], "first")
    yield started
    for each in started:
        each.stop()


def know(here: Node, endpoint: Endpoint, tenant: str, link: str) -> None:
    here.do(lambda: here.router.add_remote(endpoint.id, tenant, link))


def test_nodes_when_linked_then_frames_and_acks_pass(nodes: list[Node]) -> None:
    one, two = nodes[0].join(), nodes[1].join()
    know(nodes[0], two, "a", "second")
    know(nodes[1], one, "a", "first")
    for number in range(100):
        one.send(two.id, UPDATE, length=number)
        frame = two.receive(SOON)
        assert frame is not None
        assert (frame.src, frame.length) == (one.id, number)
        two.ack(frame)
    one.wait_acked(two.id, 100, SOON)


def test_remote_when_of_another_tenant_then_forbidden(nodes: list[Node]) -> None:
    one, two = nodes[0].join("a"), nodes[1].join("b")
    know(nodes[0], two, "b", "second")
    know(nodes[1], one, "a", "first")
    one.send(two.id, UPDATE)
    with pytest.raises(RouteForbidden):
        one.wait_acked(two.id, 1, SOON)
    assert two.receive(0) is None


def test_remote_when_closed_then_error_comes_back(nodes: list[Node]) -> None:
    one, two = nodes[0].join(), nodes[1].join()
    know(nodes[0], two, "a", "second")
    know(nodes[1], one, "a", "first")
    two.close()
    one.send(two.id, UPDATE)
    with pytest.raises(PeerUnreachable):
        one.wait_acked(two.id, 1, SOON)


def test_link_when_source_is_not_known_there_then_refused(nodes: list[Node]) -> None:
    """A node vouches only for endpoints that the directory places on it."""
    one, two = nodes[0].join(), nodes[1].join()
    know(nodes[0], two, "a", "second")
    one.send(two.id, UPDATE)
    assert two.receive(0.2) is None
    assert nodes[1].do(lambda: nodes[1].router.errors[ErrorCode.FORGED]) == 1


def test_link_when_down_then_error_instead_of_a_queue(nodes: list[Node]) -> None:
    one = nodes[0].join()
    nodes[0].do(lambda: nodes[0].router.add_remote(12345, "a", "no such link"))
    one.send(12345, UPDATE)
    with pytest.raises(PeerUnreachable):
        one.wait_acked(12345, 1, SOON)


def test_remote_when_id_is_local_then_refused(nodes: list[Node]) -> None:
    one = nodes[0].join()
    with pytest.raises(JoinRefused, match="also one of this node"):
        know(nodes[0], one, "a", "second")


def test_tenant_when_it_has_too_much_then_others_join(nodes: list[Node], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ENDPOINTS_PER_TENANT", 2)
    for _ in range(2):
        nodes[0].join("a")
    with pytest.raises(JoinRefused):
        nodes[0].join("a")
    nodes[0].do(lambda: [nodes[0].router.expect("a") for _ in range(2)])
    with pytest.raises(JoinRefused, match="too many tokens"):
        nodes[0].do(lambda: nodes[0].router.expect("a"))
    nodes[0].join("b")


def test_connections_when_silent_then_others_join(nodes: list[Node]) -> None:
    """Connections without a token do not keep those with one from joining."""
    silent = [socket.create_connection(nodes[0].address) for _ in range(200)]
    nodes[0].join()
    assert nodes[0].do(lambda: len(nodes[0].router._new)) <= 128
    for each in silent:
        each.close()


def test_token_when_expired_then_refused(nodes: list[Node], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TOKEN_SECONDS", 0.0)
    with pytest.raises(JoinRefused):
        nodes[0].join()


def test_reserved_id_when_of_another_tenant_then_refused(nodes: list[Node]) -> None:
    router = nodes[0].router
    id_ = nodes[0].do(lambda: router.reserve("a"))
    token = nodes[0].do(lambda: router.expect("b", reserved=id_))
    with pytest.raises(JoinRefused):
        Endpoint(StreamTransport(nodes[0].address, token))


def test_activation_when_queue_is_full_then_refused(nodes: list[Node]) -> None:
    router = nodes[0].router
    id_ = nodes[0].do(lambda: router.reserve("a"))
    senders = [nodes[0].join() for _ in range(ACTIVATION_FRAMES // module.WINDOW + 1)]
    for sender in senders:
        for _ in range(sender.window):
            sender.send(id_, UPDATE)
    refused = (len(senders) * module.WINDOW) - ACTIVATION_FRAMES
    deadline = time.monotonic() + SOON
    while nodes[0].do(lambda: router.errors[ErrorCode.FULL]) < refused:
        assert time.monotonic() < deadline
    assert nodes[0].activated == [id_]
    assert nodes[0].do(lambda: len(router.ports[id_].waiting)) == ACTIVATION_FRAMES


def test_ids_when_assigned_then_never_reused(nodes: list[Node]) -> None:
    """They are spread over all of u32, and not those of another router."""

    def assign(router: Router) -> list[int]:
        ids = []
        for _ in range(5000):
            ids.append(router.reserve("a"))
            router.close(router.ports[ids[-1]])
        return ids

    first, second = nodes[0].do(lambda: assign(nodes[0].router)), nodes[1].do(lambda: assign(nodes[1].router))
    assert len(set(first)) == 5000
    assert 0 not in first
    assert max(first) > 2**31 > min(first)
    assert len(set(first) & set(second)) < 10


def test_connection_when_not_frames_then_closed(nodes: list[Node]) -> None:
    one = nodes[0].join()
    assert isinstance(one.transport, StreamTransport)
    one.transport.socket.send(b"GET / HTTP/1.1\r\n".ljust(64))
    with pytest.raises(BusClosed):
        one.receive(SOON)


def test_bus_when_nothing_listens_then_error_names_the_address() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = listener.getsockname()
    with pytest.raises(BusClosed, match=f"127.0.0.1:{address[1]}: Connection refused"):
        StreamTransport(address, bytes(16))


@pytest.fixture
async def wire() -> AsyncIterator[tuple[Wire, socket.socket]]:
    ours, theirs = socket.socketpair()
    made = Wire(ours, lambda _: None, lambda: None)
    yield made, theirs
    made.close()
    theirs.close()


async def test_wire_when_not_read_then_queue_is_bounded(wire: tuple[Wire, socket.socket]) -> None:
    """The receiver of a full queue gets every frame that was accepted, in order, across partial writes."""
    ours, theirs = wire
    accepted = 0
    while ours.send(Frame(UPDATE, 1, 2, accepted)):
        accepted += 1
    assert accepted >= QUEUED_FRAMES
    theirs.setblocking(False)
    buffer, seqs = FrameBuffer(), list[int]()
    while len(seqs) < accepted:
        data = await asyncio.get_running_loop().sock_recv(theirs, 1000)
        seqs += [frame.seq for frame in buffer.feed(data)]
    assert seqs == list(range(accepted))
