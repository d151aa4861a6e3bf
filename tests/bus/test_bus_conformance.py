"""What every transport of the bus does alike."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from bus.bus_world import TRANSPORTS, BusWorld, Name, node

from headrace.bus import endpoint as endpoint_module
from headrace.bus import router
from headrace.bus.endpoint import Endpoint
from headrace.bus.errors import (
    AckTimeout,
    BusClosed,
    CreditTimeout,
    PeerUnreachable,
    RouteForbidden,
    StaleEpoch,
)
from headrace.bus.frames import ErrorCode, Frame, Kind, weight_bits

KEY = bytes(range(16))
UPDATE = Kind.UPDATE
SOON = 5.0


@pytest.fixture(params=TRANSPORTS)
def transport(request: pytest.FixtureRequest) -> Name:
    name: Name = request.param
    return name


@pytest.fixture
def world(tmp_path: Path, transport: Name) -> Iterator[BusWorld]:
    with node(tmp_path, transport) as started:
        yield started


@pytest.fixture
def one(world: BusWorld, transport: Name) -> Endpoint:
    return world.join(transport)


@pytest.fixture
def two(world: BusWorld, transport: Name) -> Endpoint:
    return world.join(transport)


def take(endpoint: Endpoint) -> Frame:
    frame = endpoint.receive(SOON)
    assert frame is not None
    return frame


def test_frame_when_sent_then_every_field_arrives(one: Endpoint, two: Endpoint) -> None:
    one.epoch = 3
    one.send(two.id, Kind.PARTIAL, key=KEY, offset=1 << 40, length=1 << 33, value=weight_bits(0.5))
    frame = take(two)
    assert frame == Frame(Kind.PARTIAL, two.id, one.id, 1, KEY, 1 << 40, 1 << 33, 3, weight_bits(0.5))
    assert frame.weight == 0.5


def test_endpoints_when_joined_then_ids_differ(one: Endpoint, two: Endpoint) -> None:
    assert one.id != two.id
    assert 0 not in {one.id, two.id}
    assert one.window == 8


def test_frames_when_many_then_in_order_per_pair(world: BusWorld, transport: Name) -> None:
    """Two senders, four times as many frames as credits: each pair is in order and complete."""
    receiver, senders = world.join(transport), [world.join(transport) for _ in range(2)]

    def send(endpoint: Endpoint) -> None:
        for number in range(100):
            endpoint.send(receiver.id, UPDATE, length=number)

    threads = [threading.Thread(target=send, args=(each,)) for each in senders]
    for thread in threads:
        thread.start()
    frames = [take(receiver) for _ in range(200)]
    for thread in threads:
        thread.join()
    for sender in senders:
        assert [frame.length for frame in frames if frame.src == sender.id] == list(range(100))
        assert sender.counts.credit_waits > 0


def test_credits_when_exhausted_then_sender_waits(one: Endpoint, two: Endpoint) -> None:
    for _ in range(one.window):
        one.send(two.id, UPDATE)
    with pytest.raises(CreditTimeout, match="granted no credit"):
        one.send(two.id, UPDATE, timeout=0.05)
    for _ in range(one.window):
        take(two)
    assert one.send(two.id, UPDATE, timeout=SOON) == one.window + 1
    assert two.counts.refused == 0


def test_credits_when_sender_ignores_them_then_pair_is_refused(one: Endpoint, two: Endpoint) -> None:
    """The receiver's queue has the window as its bound, whatever the sender does."""
    one.send(two.id, UPDATE)
    one._peers[two.id].credits = 10_000
    for _ in range(100):
        one.send(two.id, UPDATE)
    while two._pump(time.monotonic() + 0.2):
        pass
    assert len(two._inbox) == two.window
    assert two.counts.refused == 101 - two.window
    with pytest.raises(PeerUnreachable):
        one.wait_acked(two.id, 101, SOON)


def test_both_when_sending_a_window_at_once_then_none_blocks(one: Endpoint, two: Endpoint) -> None:
    for _ in range(one.window):
        one.send(two.id, UPDATE)
        two.send(one.id, UPDATE)
    for _ in range(one.window):
        one.ack(take(one))
        two.ack(take(two))
    one.wait_acked(two.id, one.window, SOON)
    two.wait_acked(one.id, two.window, SOON)


def test_ack_when_sent_then_earlier_frames_are_acknowledged(one: Endpoint, two: Endpoint) -> None:
    for _ in range(3):
        one.send(two.id, UPDATE)
    assert one.acked(two.id) == 0
    frames = [take(two) for _ in range(3)]
    two.ack(frames[2])
    one.wait_acked(two.id, 3, SOON)
    assert one.acked(two.id) == 3


def test_ack_when_missing_then_error_names_the_frame(one: Endpoint, two: Endpoint) -> None:
    one.send(two.id, UPDATE)
    with pytest.raises(AckTimeout, match="did not acknowledge frame 1"):
        one.wait_acked(two.id, 1, 0.05)


def test_epoch_when_advanced_then_stale_frames_are_dropped(one: Endpoint, two: Endpoint) -> None:
    one.send(two.id, UPDATE, length=1)
    assert take(two).length == 1
    two.advance(1)
    one.send(two.id, UPDATE, length=2)
    assert two.receive(0.2) is None
    assert two.counts.stale == 1
    with pytest.raises(StaleEpoch, match="later epoch"):
        one.wait_acked(two.id, 2, SOON)
    one.advance(1)
    for number in range(3, 30):
        one.send(two.id, UPDATE, length=number)
        assert take(two).length == number


def test_epoch_when_advanced_then_waiting_frames_are_dropped(one: Endpoint, two: Endpoint) -> None:
    for _ in range(3):
        one.send(two.id, UPDATE)
    take(two)
    two.advance(1)
    assert two.receive(0.2) is None
    assert two.counts.stale == 2


def test_peer_when_it_dies_then_error(one: Endpoint, two: Endpoint, world: BusWorld) -> None:
    one.send(two.id, UPDATE)
    take(two)
    dead = two.id
    two.close()
    world.await_end(dead)
    one.send(dead, UPDATE)
    with pytest.raises(PeerUnreachable, match="does not exist or has closed"):
        one.wait_acked(dead, 2, SOON)
    with pytest.raises(PeerUnreachable):
        one.send(dead, UPDATE)


def test_frames_when_sender_closes_then_still_taken(one: Endpoint, two: Endpoint) -> None:
    """Also if it has not read an acknowledgement: then the kernel reports a reset before the frames."""
    one.send(two.id, UPDATE, value=1)
    two.ack(take(two))
    one.send(two.id, UPDATE, value=2)
    one.send(two.id, UPDATE, value=3)
    one.close()
    assert [take(two).value, take(two).value] == [2, 3]


def test_destination_when_unknown_then_socket_is_usable(one: Endpoint, two: Endpoint) -> None:
    """A dropping program would poison the socket: every later send would fail."""
    unknown = next(number for number in range(1, 9) if number not in {one.id, two.id})
    one.send(unknown, UPDATE)
    with pytest.raises(PeerUnreachable):
        one.wait_acked(unknown, 1, SOON)
    one.send(two.id, UPDATE)
    assert take(two).src == one.id


def test_tenant_when_other_then_route_is_forbidden(world: BusWorld, transport: Name, one: Endpoint) -> None:
    foreign = world.join(transport, "b")
    one.send(foreign.id, UPDATE)
    with pytest.raises(RouteForbidden, match="another tenant"):
        one.wait_acked(foreign.id, 1, SOON)
    assert foreign.receive(0) is None
    assert world.do(lambda: world.router.errors[ErrorCode.FORBIDDEN]) == 1


def test_direct_sockets_when_tenant_has_many_then_forwarded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The router holds their descriptors until endpoints receive them, so no tenant may have it hold all."""
    monkeypatch.setattr(router, "_DIRECT_PATHS_OF_TENANT", 2)
    with node(tmp_path, "unix") as world:

        def forwarded(tenant: str) -> int:
            """Return the frames that the router forwarded for a new pair of endpoints."""
            one, two = world.join("unix", tenant), world.join("unix", tenant)
            before = world.do(lambda: world.router.forwarded["unix"])
            one.send(two.id, UPDATE)
            assert take(two).src == one.id
            pairs.append((one, two))
            return world.do(lambda: world.router.forwarded["unix"]) - before

        pairs: list[tuple[Endpoint, Endpoint]] = []
        assert [forwarded("a"), forwarded("a"), forwarded("b")] == [0, 1, 0]
        pairs[0][0].close()
        world.await_end(pairs[0][0].id)
        assert forwarded("a") == 0


def test_source_when_forged_then_frame_is_refused(world: BusWorld, transport: Name, one: Endpoint) -> None:
    victim, forger = world.join(transport), world.join(transport)
    forger.transport.send(Frame(UPDATE, one.id, victim.id, 1), time.monotonic() + SOON)
    assert one.receive(0.2) is None
    victim.send(one.id, UPDATE)
    assert take(one).src == victim.id


def test_agent_when_it_stops_then_bus_is_closed(world: BusWorld, one: Endpoint) -> None:
    world.do(world.router.stop)
    with pytest.raises(BusClosed):
        one.receive(SOON)


def test_endpoint_at_zero_when_sent_to_then_activated(world: BusWorld, transport: Name, one: Endpoint) -> None:
    """Frames wait in the router, and the process that is started takes the id and gets them in order."""
    at_zero = world.do(lambda: world.router.reserve("a"))
    for number in range(3):
        one.send(at_zero, UPDATE, length=number)
    one.receive(0.05)
    assert world.activated == [at_zero]
    started = world.join(transport, reserved=at_zero)
    assert started.id == at_zero
    assert [take(started).length for _ in range(3)] == [0, 1, 2]
    one.send(at_zero, UPDATE, length=3)
    assert take(started).length == 3


def test_session_when_it_ends_then_its_endpoints_are_closed(world: BusWorld, transport: Name) -> None:
    endpoint = world.join(transport, "b")
    world.connection("b").close()
    with pytest.raises(BusClosed):
        endpoint.receive(SOON)
    world.await_end(endpoint.id)


def test_endpoints_when_closed_then_no_descriptor_is_left(world: BusWorld, transport: Name, one: Endpoint) -> None:
    def cycle() -> None:
        endpoint = world.join(transport)
        one.send(endpoint.id, UPDATE)
        endpoint.ack(take(endpoint))
        one.wait_acked(endpoint.id, 1, SOON)
        endpoint.close()
        world.await_end(endpoint.id)
        one.receive(0)

    cycle()
    before = descriptors()
    for _ in range(20):
        cycle()
    while one.receive(0.1) is not None:
        pass
    assert descriptors() == before


def descriptors() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def test_peers_when_too_many_then_unreachable_are_forgotten(
    world: BusWorld, transport: Name, one: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An endpoint that lives for months meets any number of peers; what it knows of them is bounded."""
    monkeypatch.setattr(endpoint_module, "PEERS", 3)
    for _ in range(10):
        with world.join(transport) as passing:
            passing.send(one.id, UPDATE)
            assert take(one).src == passing.id
        world.await_end(passing.id)
        one.forget(passing.id)
    assert len(one._peers) == 0
    for number in range(1, 4):
        one.send(number, UPDATE)
        with pytest.raises(PeerUnreachable):
            one.wait_acked(number, 1, SOON)
    one.send(4, UPDATE)
    assert len(one._peers) == 1
