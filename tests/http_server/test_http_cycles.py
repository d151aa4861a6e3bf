"""What an answer's messages become on the wire."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from headrace.http.cycles import Cycle, ExpectingCycle, UnchunkedCycle

Fields = list[tuple[bytes, bytes]]

LENGTH: Fields = [(b"content-length", b"2")]
CHUNKED: Fields = [(b"transfer-encoding", b"chunked")]


class Transport:
    """Keeps what is written, write by write."""

    def __init__(self) -> None:
        self.writes: list[bytes] = []
        self.closed = False

    def write(self, data: bytes) -> None:
        self.writes.append(data)

    def close(self) -> None:
        self.closed = True

    def is_closing(self) -> bool:
        return self.closed


def cycle_on(
    transport: Transport,
    method: str = "POST",
    *,
    keep_alive: bool = True,
    expect: bool = False,
    kind: type[RequestResponseCycle] = Cycle,
) -> Any:
    wire = cast("asyncio.Transport", transport)
    return kind(
        scope=cast("Any", {"type": "http", "method": method}),
        transport=wire,
        flow=FlowControl(wire),
        logger=logging.getLogger(),
        access_logger=logging.getLogger(),
        access_log=False,
        default_headers=[],
        message_event=asyncio.Event(),
        expect_100_continue=expect,
        keep_alive=keep_alive,
        on_response=lambda: None,
    )


async def send(cycle: RequestResponseCycle, **message: object) -> None:
    await cycle.send(cast("Any", message))


async def start(cycle: RequestResponseCycle, fields: Fields, *, status: int = 200, **more: object) -> None:
    await send(cycle, type="http.response.start", status=status, headers=fields, **more)


async def test_complete_answer_then_it_is_one_write() -> None:
    transport = Transport()
    cycle = cycle_on(transport)
    await start(cycle, LENGTH, body=b"ok")
    assert transport.writes == [b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"]
    assert cycle.response_complete


async def test_complete_answer_to_head_then_it_has_no_body() -> None:
    transport = Transport()
    await start(cycle_on(transport, "HEAD"), LENGTH, body=b"ok")
    assert transport.writes == [b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n"]


async def test_stream_then_its_head_is_written_before_the_first_piece() -> None:
    transport = Transport()
    cycle = cycle_on(transport, keep_alive=False)
    await start(cycle, [])
    await send(cycle, type="http.response.body", body=b"ab", more_body=True)
    await send(cycle, type="http.response.body", body=b"", more_body=False)
    head = b"HTTP/1.1 200 OK\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n"
    assert transport.writes == [head, b"2\r\nab\r\n", b"0\r\n\r\n"]
    assert transport.closed


@pytest.mark.parametrize("value", [b"a\r\nset-cookie: b", b"a\rb", b"a\nb", b"a\0b", b"a\x7fb"])
async def test_control_character_in_a_field_then_nothing_is_written(value: bytes) -> None:
    transport = Transport()
    with pytest.raises(RuntimeError, match="control characters"):
        await start(cycle_on(transport), [(b"x-field", value), *LENGTH], body=b"ok")
    assert transport.writes == []


@pytest.mark.parametrize(("body", "fault"), [(b"o", "shorter"), (b"okay", "longer")])
async def test_body_of_another_length_then_it_fails(body: bytes, fault: str) -> None:
    with pytest.raises(RuntimeError, match=fault):
        await start(cycle_on(Transport()), LENGTH, body=body)


@pytest.mark.parametrize("name", [b"", b"x y", b"x y: z", b"x(y)", b"Content-Length", "x-é".encode()])
async def test_name_that_is_no_token_then_nothing_is_written(name: bytes) -> None:
    transport = Transport()
    with pytest.raises(RuntimeError, match="no token in lower case"):
        await start(cycle_on(transport), [(name, b"2")], body=b"ok")
    assert transport.writes == []


async def test_second_head_when_the_body_began_then_no_end_is_written() -> None:
    """The answer stays incomplete, so the client learns that it is cut off."""
    transport = Transport()
    cycle = cycle_on(transport)
    await start(cycle, [])
    await send(cycle, type="http.response.body", body=b"ab", more_body=True)
    with pytest.raises(RuntimeError, match=r"http\.response\.start"):
        await start(cycle, LENGTH)
    assert transport.writes[1:] == [b"2\r\nab\r\n"]
    assert not cycle.response_complete


async def test_body_before_the_head_then_500() -> None:
    transport = Transport()

    async def headless(scope: object, receive: object, send: Any) -> None:
        del scope, receive
        await send({"type": "http.response.body", "body": b"ab"})

    await cycle_on(transport).run_asgi(headless)
    assert b"".join(transport.writes).startswith(b"HTTP/1.1 500 ")


# -- the one write of a complete answer


@pytest.mark.parametrize("status", [204, 304])
async def test_one_write_of_a_status_without_body_then_no_chunks(status: int) -> None:
    transport = Transport()
    await start(cycle_on(transport), [], status=status, body=b"")
    (written,) = transport.writes
    assert written.startswith(b"HTTP/1.1 %d " % status)
    assert written.count(b"\r\n") == 2


@pytest.mark.parametrize("fields", [[], CHUNKED, [*CHUNKED, *LENGTH]])
async def test_answer_over_http_1_0_then_never_in_chunks(fields: Fields) -> None:
    length = b"content-length: 2\r\n" if LENGTH[0] in fields else b""
    head = b"HTTP/1.1 200 OK\r\n" + length + b"connection: close\r\n\r\n"
    at_once, in_pieces = Transport(), Transport()
    await start(cycle_on(at_once, keep_alive=False, kind=UnchunkedCycle), fields, body=b"ok")
    assert at_once.writes == [head + b"ok"]
    cycle = cycle_on(in_pieces, keep_alive=False, kind=UnchunkedCycle)
    await start(cycle, fields)
    await send(cycle, type="http.response.body", body=b"o", more_body=True)
    await send(cycle, type="http.response.body", body=b"k")
    assert in_pieces.writes == [head, b"o", b"k"]
    assert at_once.closed
    assert in_pieces.closed


async def test_one_write_to_an_expecting_client_then_it_is_closed() -> None:
    """It was not told to send the body, and may send it or not."""
    transport = Transport()
    await start(cycle_on(transport, expect=True, kind=ExpectingCycle), LENGTH, body=b"ok")
    assert transport.writes == [b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok"]
    assert transport.closed


async def test_one_write_when_the_application_closes_then_it_is_closed() -> None:
    transport = Transport()
    await start(cycle_on(transport), [(b"connection", b"Upgrade, Close"), *LENGTH], body=b"ok")
    assert transport.writes[0].count(b"connection: ") == 1
    assert transport.closed


async def test_one_write_when_the_client_is_slow_then_it_waits() -> None:
    transport = Transport()
    cycle = cycle_on(transport)
    cycle.flow.pause_writing()
    sending = asyncio.create_task(start(cycle, LENGTH, body=b"ok"))
    await asyncio.sleep(0)
    assert transport.writes == []
    cycle.flow.resume_writing()
    await sending
    assert len(transport.writes) == 1


async def test_one_write_when_the_client_has_gone_then_nothing() -> None:
    transport = Transport()
    cycle = cycle_on(transport)
    cycle.disconnected = True
    await start(cycle, LENGTH, body=b"ok")
    assert transport.writes == []


FIELDS: Fields = [*LENGTH, *CHUNKED, (b"connection", b"close"), (b"x-field", b"value"), (b"content-length", b"0")]


@settings(deadline=None)
@given(
    method=st.sampled_from(["GET", "HEAD"]),
    status=st.sampled_from([200, 204, 304, 404]),
    fields=st.lists(st.sampled_from(FIELDS), max_size=3),
    pieces=st.lists(st.sampled_from([b"", b"o", b"ok"]), min_size=1, max_size=3),
    keep_alive=st.booleans(),
)
def test_answer_then_it_is_written_as_uvicorn_writes_it(
    method: str, status: int, fields: Fields, pieces: Sequence[bytes], *, keep_alive: bool
) -> None:
    """The bytes, the end of the connection and the faults are those of uvicorn's own cycle."""

    async def written(kind: type[RequestResponseCycle], *, at_once: bool = False) -> tuple[bytes, bool] | None:
        transport = Transport()
        cycle = cycle_on(transport, method, keep_alive=keep_alive, kind=kind)
        try:
            if at_once:
                await start(cycle, fields, status=status, body=pieces[0])
            else:
                await start(cycle, fields, status=status)
                for count, piece in enumerate(pieces, start=1):
                    await send(cycle, type="http.response.body", body=piece, more_body=count < len(pieces))
        except RuntimeError:
            return None
        return b"".join(transport.writes), transport.closed

    expected = asyncio.run(written(RequestResponseCycle))
    assert asyncio.run(written(Cycle)) == expected
    if len(pieces) == 1:
        assert asyncio.run(written(Cycle, at_once=True)) == expected
