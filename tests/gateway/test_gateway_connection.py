"""The upstream connection: any split of the bytes gives the same answer, and what is no answer is none."""

from __future__ import annotations

import asyncio
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typing_extensions import override

from headrace_gateway.upstream.connection import MAX_HEAD_BYTES, PAUSE_BYTES, Connection, ConnectionLost


class Wire(asyncio.Transport):
    """The foreign half of a connection: a socket that only remembers what was asked of it."""

    def __init__(self) -> None:
        super().__init__()
        self.closed = False
        self.paused = False

    @override
    def write(self, data: object) -> None:
        pass

    @override
    def is_closing(self) -> bool:
        return self.closed

    @override
    def abort(self) -> None:
        self.closed = True

    @override
    def pause_reading(self) -> None:
        self.paused = True

    @override
    def resume_reading(self) -> None:
        self.paused = False


def asked(loop: asyncio.AbstractEventLoop) -> tuple[Connection, Wire]:
    connection, wire = Connection(loop), Wire()
    connection.connection_made(wire)
    connection.send(b"GET / HTTP/1.1\r\n\r\n")
    return connection, wire


ANSWERS = (
    b"HTTP/1.1 200 OK\r\nContent-Length: 11\r\nX-A: 1\r\nX-A: 2\r\n\r\nhello world",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5;ext=1\r\nhello\r\n6\r\n world\r\n0\r\nTrailer: x\r\n\r\n",
    (
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early\r\nLink: x\r\n\r\n"
        b"HTTP/1.1 200 OK\r\ncontent-length: 11\r\n\r\nhello world"
    ),
    b"HTTP/1.0 200 OK\r\n\r\nhello world",
    b"HTTP/1.1 204 No Content\r\n\r\n",
    b"HTTP/1.1 429 Too Many Requests\r\ncontent-length: 0\r\nretry-after: 1\r\n\r\n",
)
Outcome = tuple[int, tuple[tuple[bytes, bytes], ...], bytes, bool]


def outcome(answer: bytes, cuts: list[int]) -> Outcome:
    loop = asyncio.new_event_loop()
    try:
        connection, _ = asked(loop)
        edges = [0, *sorted(cut % len(answer) for cut in cuts), len(answer)]
        body = b""
        for start, end in pairwise(edges):
            if start < end:
                connection.data_received(answer[start:end])
                body += connection.take()
        reusable = connection.reusable
        connection.connection_lost(None)
        assert connection.complete
        assert connection.head is not None
        return connection.head.status, connection.head.headers, body + connection.take(), reusable
    finally:
        loop.close()


@settings(max_examples=150, deadline=None)
@given(answer=st.sampled_from(ANSWERS), cuts=st.lists(st.integers(min_value=0, max_value=10_000), max_size=30))
def test_answer_when_split_anywhere_then_reads_the_same(answer: bytes, cuts: list[int]) -> None:
    """How the network cuts an answer changes nothing of it."""
    assert outcome(answer, cuts) == outcome(answer, [])


@pytest.mark.parametrize("answer", ANSWERS)
def test_answer_when_byte_by_byte_then_reads_the_same(answer: bytes) -> None:
    assert outcome(answer, list(range(len(answer)))) == outcome(answer, [])


@settings(max_examples=150, deadline=None)
@given(noise=st.binary(max_size=200), cuts=st.lists(st.integers(min_value=0, max_value=10_000), max_size=10))
def test_connection_when_fed_noise_then_never_crashes(noise: bytes, cuts: list[int]) -> None:
    """Whatever a replica sends, the exchange ends in an answer or in ConnectionLost."""
    loop = asyncio.new_event_loop()
    try:
        connection, _ = asked(loop)
        data = b"HTTP/1.1 " + noise
        edges = [0, *sorted(cut % len(data) for cut in cuts), len(data)]
        for start, end in pairwise(edges):
            connection.data_received(data[start:end])
            connection.take()
        connection.connection_lost(None)
        if not connection.complete:
            with pytest.raises(ConnectionLost):
                _ = connection.changed()
    finally:
        loop.close()


MALFORMED = {
    "length and chunks": b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ntransfer-encoding: chunked\r\n\r\n"
    b"2\r\nhi\r\n0\r\n\r\n",
    "two lengths": b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\nhi",
    "no HTTP": b"SSH-2.0-OpenSSH_9.6\r\n",
    "an upgrade": b"HTTP/1.1 101 Switching\r\nupgrade: x\r\nconnection: upgrade\r\n\r\nxx",
    "a bad chunk size": b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\nhi",
    "an endless head": b"HTTP/1.1 200 OK\r\nx: " + b"a" * (MAX_HEAD_BYTES + 1),
}


@pytest.mark.parametrize("answer", MALFORMED.values(), ids=MALFORMED.keys())
async def test_answer_when_malformed_then_connection_is_lost(answer: bytes) -> None:
    """The connection is closed."""
    connection, wire = asked(asyncio.get_running_loop())
    connection.data_received(answer)
    connection.take()
    assert wire.closed
    with pytest.raises(ConnectionLost):
        _ = connection.changed()


async def test_connection_when_second_answer_follows_then_not_reused() -> None:
    connection, _ = asked(asyncio.get_running_loop())
    one = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi"
    connection.data_received(one + one)
    assert connection.take() == b"hi"
    assert connection.complete
    assert not connection.reusable


async def test_connection_when_idle_and_spoken_to_then_it_is_closed() -> None:
    connection, wire = asked(asyncio.get_running_loop())
    one = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi"
    connection.data_received(one)
    connection.take()
    assert connection.reusable
    connection.data_received(one)
    assert wire.closed


async def test_connection_when_reader_is_slow_then_reading_pauses() -> None:
    connection, wire = asked(asyncio.get_running_loop())
    connection.data_received(b"HTTP/1.1 200 OK\r\ncontent-length: 99999999\r\n\r\n" + b"x" * (PAUSE_BYTES + 1))
    assert wire.paused
    connection.take()
    assert not wire.paused


async def test_connection_when_it_ends_before_sending_then_lost() -> None:
    connection = Connection(asyncio.get_running_loop())
    connection.connection_made(Wire())
    connection.connection_lost(None)
    connection.send(b"GET / HTTP/1.1\r\n\r\n")
    with pytest.raises(ConnectionLost):
        _ = connection.changed()
