"""How a connection ends: who is refused early reads why, who sends no more is answered, who has gone costs nothing."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import cast

import pytest
import pytest_asyncio
from gateway.gateway_inside import inside
from gateway.gateway_replica import Received
from gateway.gateway_world import until
from http_server.http_client import LAST, connected
from http_server.http_corpus import BODY, STREAM, chunked, get, post, sized
from http_server.http_servers import GATEWAY, RUNTIME, within
from starlette.types import ASGIApp

from headrace.http import closing, protocol
from headrace.http.bodies import MAX_DISCARDED_BYTES
from headrace.http.heads import MAX_HEAD_BYTES
from headrace.http.protocol import HttpProtocol
from headrace.http.server import http_server

MIB = 1 << 20


@pytest_asyncio.fixture(params=[GATEWAY, RUNTIME])
async def port(request: pytest.FixtureRequest) -> AsyncIterator[int]:
    async with within(request.param) as port:
        yield port


# -- bounds of each phase


@pytest.mark.parametrize("size", [8_193, 9_000, 20_000, MAX_HEAD_BYTES])
async def test_large_head_when_its_body_comes_later_then_it_is_served(
    port: int, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, data_received = [0], HttpProtocol.data_received

    def counted(protocol: HttpProtocol, data: bytes) -> None:
        read[0] += len(data)
        data_received(protocol, data)

    monkeypatch.setattr(HttpProtocol, "data_received", counted)
    raw = sized("X-Padding: ")
    raw = raw.replace(b"X-Padding: ", b"X-Padding: " + b"a" * (size - (len(raw) - len(BODY))))
    async with connected(port) as wire:
        await wire.send(raw[: -len(BODY)])
        await until(lambda: size <= read[0], "the head is read")
        await wire.send(BODY)
        reply = await wire.reply()
    assert reply is not None
    assert reply.status == 200


@pytest.mark.parametrize("size", [MAX_HEAD_BYTES + 1, 100_000, 300_000])
@pytest.mark.parametrize("target", ["/v1/completions", "/v1/models", "/healthz", "/nothing"])
async def test_head_when_too_large_then_431_is_sent(port: int, target: str, size: int) -> None:
    head = get("X-Padding: ", target=target)
    head = head.replace(b"X-Padding: ", b"X-Padding: " + b"a" * (size - len(head)))
    async with connected(port) as wire:
        await wire.send(head)
        replies = await wire.replies()
    assert [reply.status for reply in replies] == [431]
    assert json.loads(replies[0].body)["error"]["code"] == "head_too_large"


async def test_head_when_it_does_not_come_then_408(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "HEAD_SECONDS", 0.05)
    async with connected(port) as silent, connected(port) as slow:
        await slow.send(b"GET /v1/models HT")
        assert [reply.status for reply in await slow.replies()] == [408]
        assert await silent.replies() == []


async def test_pipelined_heads_then_each_is_counted_for_itself(port: int) -> None:
    head = get(f"X: {'a' * 20_000}")
    async with connected(port) as wire:
        await wire.send(head + head[:-2])
        await wire.send(head[-2:])
        assert [reply and reply.status for reply in (await wire.reply(), await wire.reply())] == [200, 200]


# -- early answers


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (post("Transfer-Encoding: xchunked", body=b""), 400),
        (post("Transfer-Encoding: chunked", body=b"zz\r\n"), 400),
        (chunked(trailers=f"X: {'a' * 20_000}\r\n"), 400),
        (post("Content-Length: 99999999999", f"X: {'a' * 40_000}", body=b""), 431),
        (get("Content-Length: 99999999999", method="BREW"), 400),
        (get(method="CONNECT", target="localhost:443"), 405),
        (b"\x16\x03\x01\x02\x00", 400),
    ],
    ids=["coding", "chunk", "trailers", "head", "method", "CONNECT", "TLS"],
)
async def test_refused_while_it_is_sending_then_it_reads_why(port: int, head: bytes, status: int) -> None:
    """Four mebibytes are sent before anything is read: without a lingering close the kernel would reset."""
    async with connected(port) as wire:
        await wire.send(head)
        await wire.send(bytes(4 * MIB))
        replies = await wire.replies()
    assert [reply.status for reply in replies] == [status]
    assert replies[0].headers["connection"] == "close"


async def test_body_declared_too_large_then_its_sender_reads_413() -> None:
    async with within(GATEWAY) as port, connected(port) as wire:
        await wire.send(post("Content-Length: 99999999999", body=bytes(4 * MIB)))
        assert [reply.status for reply in await wire.replies()] == [413]


async def test_refused_when_it_goes_on_sending_then_it_is_cut_off(port: int) -> None:
    sent = 0
    async with connected(port) as wire:
        wire.writer.write(b"garbage\r\n\r\n")
        try:
            while sent < 8 * MAX_DISCARDED_BYTES:
                wire.writer.write(bytes(MIB))
                await wire.writer.drain()
                sent += MIB
        except ConnectionError:
            pass
    assert sent < 8 * MAX_DISCARDED_BYTES


async def test_refused_when_it_keeps_the_connection_then_it_ends(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(closing, "DISCARD_SECONDS", 0.05)
    with socket.create_connection(("127.0.0.1", port)) as client:
        client.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_sendall(client, b"garbage\r\n\r\n")
        async with asyncio.timeout(20):
            while await loop.sock_recv(client, 4096):
                continue
            with suppress(ConnectionError):
                while True:  # until the server has closed both ways, and resets
                    await loop.sock_sendall(client, b"x")
                    await asyncio.sleep(0.01)


@pytest.mark.parametrize("message", [get("Connection: close"), get(version="1.0")], ids=["close", "1.0"])
async def test_close_when_more_is_sent_late_then_no_reset(port: int, message: bytes) -> None:
    """The server sends FIN after the last answer and reads on: a reset could drop an answer in transit."""
    async with connected(port) as wire:
        await wire.send(message)
        assert [reply.status for reply in await wire.replies()] == [200]
        for _ in range(3):
            await wire.send(LAST)
            assert wire.reader.exception() is None
            assert not wire.writer.transport.is_closing()
            await asyncio.sleep(0.01)


async def test_expecting_client_when_refused_then_it_is_closed(port: int) -> None:
    """It may or may not send the body now; a server that reads on would guess."""
    async with connected(port) as wire:
        await wire.send(post("Expect: 100-continue", "Content-Length: 5", body=b"", target="/nothing"))
        replies = await wire.replies()
    assert [(reply.status, reply.headers["connection"]) for reply in replies] == [(404, "close")]


async def test_stream_over_http_1_0_then_it_ends_with_the_connection() -> None:
    async with within(RUNTIME) as port, connected(port) as wire:
        await wire.send(sized("Connection: keep-alive", body=STREAM, version="1.0"))
        reply = await wire.reply()
    assert reply is not None
    assert "transfer-encoding" not in reply.headers
    assert b"\n\ndata: " in reply.body
    assert reply.body.endswith(b"data: [DONE]\n\n")


# -- clients that send no more


@pytest.mark.parametrize(
    ("message", "statuses"),
    [
        (sized(), [200]),
        (sized("Connection: close"), [200]),
        (sized(version="1.0"), [200]),
        (sized() + get() + chunked(), [200, 200, 200]),
        (sized()[:-1], [400]),
        (get() + sized()[:-1], [200, 400]),
        (get() + get()[:-1], [200, 400]),
        (chunked()[:-1], [400]),
        (b"GET", [400]),
        (b"", []),
    ],
    ids=[
        "one",
        "close",
        "1.0",
        "three",
        "half a body",
        "and half a body",
        "half a head",
        "chunks",
        "a word",
        "nothing",
    ],
)
async def test_half_closed_then_what_is_complete_is_answered(port: int, message: bytes, statuses: list[int]) -> None:
    async with connected(port) as wire:
        await wire.send(message)
        wire.writer.write_eof()
        assert [reply.status for reply in await wire.replies()] == statuses


async def test_half_closed_during_the_first_of_two_then_both_are_answered() -> None:
    go_on = asyncio.Event()

    async def in_two_pieces(request: Received) -> None:
        request.start_stream()
        request.event("1")
        await go_on.wait()
        request.event("[DONE]")
        request.end()

    async with inside() as world:
        await world.replica(world.route(), behaviour=in_two_pieces)
        async with connected(world.port) as wire:
            await wire.send(sized(body=STREAM) + sized(body=STREAM))
            await wire.reader.readuntil(b"data: 1")
            wire.writer.write_eof()
            await asyncio.sleep(0.1)
            go_on.set()
            rest = await wire.reader.read()
    assert rest.count(b"HTTP/1.1 200 ") == 1  # the first one's was read before
    assert rest.count(b"[DONE]") == 2


class Slow:
    """A transport to a client that takes some of what was written, and then nothing."""

    def __init__(self) -> None:
        self.left, self.aborted, self.closing = 100, False, False
        self.write = self.resume_reading = self.close

    def get_write_buffer_size(self) -> int:
        return self.left

    def is_closing(self) -> bool:
        return self.closing

    def close(self) -> None:
        self.closing = True

    def abort(self) -> None:
        self.aborted = True

    def get_extra_info(self, _: str) -> None:
        return None


async def test_closing_when_the_client_takes_some_and_stops_then_it_is_aborted() -> None:
    server = http_server(cast(ASGIApp, None))
    server.config.load()
    made = HttpProtocol(server.config, server.server_state, {}, write_seconds=0.05)
    slow = Slow()
    made.connection_made(cast(asyncio.Transport, slow))
    made.pause_writing()
    made.close()
    slow.left = 10
    made.resume_writing()
    await until(lambda: slow.aborted, "it is aborted")
    made.connection_lost(None)


async def test_half_closed_when_it_waits_then_it_is_probed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(closing, "PROBE_SECONDS", (0.01,))
    go_on = asyncio.Event()

    async def think(request: Received) -> None:
        await go_on.wait()
        request.answer(b"{}")

    async with inside() as world:
        await world.replica(world.route(), behaviour=think)
        async with connected(world.port) as wire:
            await wire.send(sized())
            wire.writer.write_eof()
            first = await wire.reply()
            assert first is not None
            assert first.status == 100
            go_on.set()
            *interim, last = [reply.status for reply in await wire.replies()]
    assert set(interim) <= {100}
    assert last == 200


async def test_client_gone_before_its_answer_then_the_replica_knows(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(closing, "PROBE_SECONDS", (0.01,))
    gone = asyncio.Event()

    async def think(request: Received) -> None:
        await request.client_gone()
        gone.set()

    async with inside() as world:
        model = world.route()
        replica = await world.replica(model, behaviour=think)
        _, writer = await asyncio.open_connection("127.0.0.1", world.port)
        writer.write(sized())
        await until(lambda: bool(replica.requests), "the replica has it")
        writer.close()
        async with asyncio.timeout(20):
            await gone.wait()
        await until(lambda: not model.in_flight, "its place is free")


async def test_server_when_it_stops_then_it_waits_for_no_lingering(port: int) -> None:
    """The fixture's end stops the server, which waits for its connections."""
    async with connected(port) as wire:
        await wire.send(b"garbage\r\n\r\n")
        reply = await wire.reply()
        assert reply is not None
        assert reply.status == 400
        await wire.send(LAST)
