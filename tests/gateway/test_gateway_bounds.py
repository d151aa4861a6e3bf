"""What one client, one tenant or one request may take: bytes, places, time, and replicas."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import threading
from contextlib import suppress

import pytest
from gateway.gateway_client import CHAT, KEY_A, KEY_B, chat, get, request, send
from gateway.gateway_inside import Inside, inside
from gateway.gateway_replica import Received, Replica
from gateway.gateway_world import Broker, Gateway, World, until

from headrace.http import closing, writing
from headrace_gateway import inference
from headrace_gateway.access import MAX_LINES, AccessLog

FLOOD = 8 * 1024 * 1024
"""More than the kernel's buffers and ours take together."""


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writing, "WRITE_SECONDS", 0.1)
    monkeypatch.setattr(closing, "DISCARD_SECONDS", 0.1)


# -- a request that kills its replicas


def dies(replica: list[Replica]) -> object:
    async def behaviour(request: Received) -> None:
        await replica[0].stop()

    return behaviour


@pytest.mark.parametrize("stale_seconds", [0.0, 10.0], ids=["slow", "quick"])
async def test_request_when_it_crashes_replicas_then_three_attempts(
    monkeypatch: pytest.MonkeyPatch, stale_seconds: float
) -> None:
    """Each attempt is on another replica."""
    monkeypatch.setattr(inference, "STALE_SECONDS", stale_seconds, raising=False)
    async with inside() as world:
        model = world.route()
        for index in range(5):
            me: list[Replica] = []
            me.append(await world.replica(model, f"echo-{index}", dies(me)))  # type: ignore[arg-type]  # a Behaviour
        answer = await send(world.port, chat())
        assert (answer.status, answer.code) == (503, "replica_lost")
        assert sorted(len(replica.requests) for replica in world.replicas) == [0, 0, 1, 1, 1]


async def test_request_when_connections_drop_then_four_attempts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """At most."""

    async def vanish(request: Received) -> None:
        request.vanish()

    monkeypatch.setattr(inference, "STALE_SECONDS", 10.0, raising=False)
    async with inside() as world:
        model = world.route()
        for index in range(5):
            await world.replica(model, f"echo-{index}", vanish)
        assert (await send(world.port, chat())).code == "replica_lost"
        assert sum(len(replica.requests) for replica in world.replicas) == 4


@pytest.mark.parametrize(
    ("stale_seconds", "cause"), [(10.0, "stale-connection"), (0.0, "connection-lost")], ids=["at once", "later"]
)
async def test_connection_when_lost_then_it_was_stale_only_if_at_once(
    monkeypatch: pytest.MonkeyPatch, stale_seconds: float, cause: str
) -> None:
    async def vanish_once(request: Received) -> None:
        if len(world.replicas[0].requests) == 1:
            request.vanish()
        else:
            request.answer(request.body)

    monkeypatch.setattr(inference, "STALE_SECONDS", stale_seconds, raising=False)
    async with inside() as world:
        model = world.route()
        await world.replica(model, behaviour=vanish_once)
        assert (await send(world.port, chat())).status == 200
        assert dict(model.metrics.retries) == {cause: 1}


async def test_added_seconds_when_attempt_was_lost_then_not_counted() -> None:
    """The time of a lost attempt is not time of the gateway."""

    async def think_and_vanish_once(request: Received) -> None:
        if len(world.replicas[0].requests) == 1:
            await asyncio.sleep(0.3)
            request.vanish()
        else:
            request.answer(request.body)

    async with inside() as world:
        model = world.route()
        await world.replica(model, behaviour=think_and_vanish_once)
        assert (await send(world.port, chat())).status == 200
        assert model.metrics.added.total < 0.3 <= model.metrics.first_byte.total


# -- trailers and what is discarded


def chunked(trailers: bytes = b"", body: bytes = b'{"model": "echo"}') -> bytes:
    head = f"POST {CHAT} HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n".encode()
    return head + b"%x\r\n%s\r\n0\r\n%s" % (len(body), body, trailers)


async def test_trailers_when_they_bring_a_key_then_it_opens_nothing() -> None:
    async with inside() as world:
        await world.replica(world.route())
        world.key(KEY_A)
        answer = await send(world.port, chunked(f"authorization: Bearer {KEY_A}\r\n\r\n".encode()))
        assert (answer.status, answer.code) == (401, "invalid_api_key")


async def test_trailers_when_few_then_they_are_ignored() -> None:
    async with inside() as world:
        replica = await world.replica(world.route())
        assert (await send(world.port, chunked(b"traceparent: 00-1-2-03\r\n\r\n"))).status == 200
        assert "traceparent" not in replica.requests[0].headers


@pytest.mark.parametrize("line", [b"x: " + b"a" * 1000 + b"\r\n", b"a" * 1000], ids=["many", "one without end"])
async def test_trailers_when_without_end_then_the_connection_is_closed(line: bytes) -> None:
    async with inside() as world:
        await world.replica(world.route())
        reader, writer = await asyncio.open_connection("127.0.0.1", world.port)
        writer.write(chunked(b"x: "))
        async with asyncio.timeout(10):
            assert await _closes(reader, writer, line)


@pytest.mark.parametrize(
    "head",
    [
        f"POST {CHAT} HTTP/1.1\r\nhost: localhost\r\n",
        "POST /v2/nothing HTTP/1.1\r\nhost: localhost\r\n",
        "GET /healthz HTTP/1.1\r\nhost: localhost\r\n",
    ],
    ids=["401", "404", "200"],
)
async def test_body_when_answered_early_then_read_for_limited_time(hasty: None, head: str) -> None:
    async with inside() as world:
        world.key(KEY_A)
        reader, writer = await asyncio.open_connection("127.0.0.1", world.port)
        writer.write(head.encode() + b"content-length: 99999999999\r\n\r\n")
        async with asyncio.timeout(10):
            await reader.readuntil(b"\r\n\r\n")
            assert await _closes(reader, writer, b"a")


async def test_body_when_answered_early_then_limited_bytes_are_read() -> None:
    async with inside() as world:
        world.key(KEY_A)
        reader, writer = await asyncio.open_connection("127.0.0.1", world.port)
        writer.write(f"POST {CHAT} HTTP/1.1\r\nhost: localhost\r\ncontent-length: 99999999999\r\n\r\n".encode())
        await reader.readuntil(b"\r\n\r\n")
        size = 0
        with suppress(ConnectionError):
            while size < 1 << 30:
                writer.write(bytes(1 << 20))
                await writer.drain()
                size += 1 << 20
        assert size < 64 << 20


async def test_connection_when_refused_body_has_ended_then_reused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with inside() as world:
        world.key(KEY_A)
        raw = chat()
        reader, writer = await asyncio.open_connection("127.0.0.1", world.port)
        for _ in range(2):
            writer.write(raw[:-5])
            assert b" 401 " in await reader.readuntil(b"}}")
            writer.write(raw[-5:])
        writer.close()


# -- clients that do not read


async def flood(request: Received) -> None:
    request.start_stream()
    for _ in range(FLOOD // 65536):
        request.chunk(b"x" * 65536)
    request.end()


def connected_to_a_deaf_client(port: int, raw: bytes) -> socket.socket:
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.connect(("127.0.0.1", port))
    client.sendall(raw)
    return client


async def test_client_when_it_does_not_read_then_it_is_cut_off(hasty: None) -> None:
    async with inside() as world:
        model = world.route()
        await world.replica(model, behaviour=flood)
        with connected_to_a_deaf_client(world.port, chat(stream=True)):
            await until(lambda: model.metrics.codes[499] == 1, "the request ends")
        assert model.in_flight == 0


async def test_client_when_it_reads_slowly_then_it_is_not_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writing, "WRITE_SECONDS", 1.0)
    async with inside() as world:
        await world.replica(world.route(), behaviour=flood)
        with connected_to_a_deaf_client(world.port, chat(stream=True)) as client:
            client.setblocking(False)
            loop, size, began = asyncio.get_running_loop(), 0, asyncio.get_running_loop().time()
            while loop.time() < began + 3:
                size += len(await loop.sock_recv(client, 4096))
                await asyncio.sleep(0.02)
            assert size


async def test_slot_when_client_does_not_read_then_it_is_released() -> None:
    """The replica's answer is complete; the next request gets its slot."""

    async def more_than_the_kernel_takes(request: Received) -> None:
        if json.loads(request.body).get("stream"):
            request.start_stream()
            for _ in range(8):
                request.chunk(b"x" * 50_000)
                await request.writer.drain()
            request.end()
        else:
            request.answer(b"{}")

    async with inside() as world:
        model = world.route()
        await world.replica(model, behaviour=more_than_the_kernel_takes, capacity=1)
        with connected_to_a_deaf_client(world.port, chat(stream=True)):
            await until(lambda: bool(world.replicas[0].requests), "the replica has it")
            assert (await send(world.port, chat())).status == 200
            assert any(_blocked(world))


async def test_gateway_when_stopping_then_unread_clients_are_closed() -> None:
    async with inside() as world:
        model = world.route()
        await world.replica(model, behaviour=flood)
        with connected_to_a_deaf_client(world.port, chat(stream=True)):
            await until(lambda: bool(world.replicas[0].requests) and any(_blocked(world)), "it is blocked")
            world.inference.abort_all()
            await until(lambda: not world.inference._running, "the request ends")


def _blocked(world: Inside) -> list[bool]:
    return [exchange._client.blocked() is not None for exchange in world.inference._running]


# -- tenants


async def test_bodies_when_one_tenant_has_many_then_another_is_served(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inference, "MAX_BODIES_BYTES", 10_000)
    async with inside() as world:
        await world.replica(world.route())
        await world.replica(world.route(namespace="team-b"), "theirs")
        world.key(KEY_A)
        world.key(KEY_B, "team-b")
        greedy = [await asyncio.open_connection("127.0.0.1", world.port) for _ in range(12)]
        for _, writer in greedy:  # a body that is announced and does not come
            head = {"authorization": f"Bearer {KEY_A}", "content-length": "1000"}
            writer.write(request(headers=head))
        refused = 0
        for reader, _ in greedy[5:]:
            refused += b" 429 " in await reader.readuntil(b"\r\n\r\n")
        assert refused == 7
        assert (await send(world.port, chat(key=KEY_B))).status == 200
        for _, writer in greedy:
            writer.close()
        await until(lambda: not world.inference._bodies_bytes, "what they held is free")
        assert not any(world.inference._tenant_bytes.values())


# -- the log


async def test_gateway_when_nobody_reads_its_log_then_it_serves_on(tmp_path: object, world: World) -> None:
    await world.loop.route()
    await world.replica()
    reading, writing = os.pipe()
    with os.fdopen(reading, "rb") as log:
        gateway = Gateway(world.broker, world.gateway.state.parent / "quiet", log=writing)
        gateway.start()
        os.close(writing)
        try:
            await gateway.ready()
            async with asyncio.timeout(30):
                for _ in range(400):  # the pipe takes 64 KiB
                    await send(gateway.port, chat("nobody", x="x"))
            assert (await get(gateway.port, "/healthz")).status == 200
        finally:
            threading.Thread(target=log.read, daemon=True).start()
            gateway.close()


def test_access_log_when_nobody_reads_then_lines_are_dropped() -> None:
    """The number of dropped lines is logged."""
    reading, writing = os.pipe()
    access = AccessLog(writing)
    for _ in range(3 * MAX_LINES):
        access.write("a line of the access log that is not read by anybody")
    with os.fdopen(reading, "rb") as log:
        text = bytearray()
        reader = threading.Thread(target=lambda: text.extend(log.read()))
        reader.start()
        access.close()
        os.close(writing)
        reader.join()
    lines = text.decode().splitlines()
    told = sum(int(line.split()[2]) for line in lines if line.startswith("access log:"))
    written = sum(line.startswith("a line") for line in lines)
    assert told
    assert written + told == 3 * MAX_LINES


# -- metrics


async def test_metrics_when_on_own_port_then_nowhere_else(broker: Broker, world: World) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = int(probe.getsockname()[1])
    gateway = Gateway(broker, world.gateway.state.parent / "two", "--metrics-port", str(port))
    gateway.start()
    try:
        await gateway.ready()
        assert (await get(gateway.port, "/metrics")).code == "not_found"
        assert b"headrace_gateway_requests" in (await get(port, "/metrics")).body
        assert (await get(port, "/v1/models")).status == 404
        assert await gateway.terminate() == 0
    finally:
        gateway.close()


async def test_metrics_when_public_without_own_port_then_none(world: World) -> None:
    gateway = Gateway(world.broker, world.gateway.state.parent / "two", host="0.0.0.0")
    gateway.start()
    try:
        await gateway.ready()
        assert (await get(gateway.port, "/metrics")).code == "not_found"
        assert "/metrics" not in (await get(gateway.port, "/openapi.json")).json()["paths"]
        assert (await get(world.port, "/metrics")).status == 200
    finally:
        gateway.close()


async def _closes(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, piece: bytes) -> bool:
    """Send pieces until the connection is closed."""
    reading = asyncio.create_task(reader.read())
    while not reading.done():
        writer.write(piece)
        await asyncio.sleep(0.005)
    return not reading.exception() or isinstance(reading.exception(), ConnectionError)
