"""What an answer's messages become on the wire."""

from __future__ import annotations

import asyncio
import logging
from typing import Any, cast

import pytest
from uvicorn.protocols.http.flow_control import FlowControl

from headrace.http.cycles import Cycle

Fields = list[tuple[bytes, bytes]]

LENGTH: Fields = [(b"content-length", b"2")]


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


def cycle_on(transport: Transport, method: str = "POST", *, keep_alive: bool = True) -> Cycle:
    wire = cast("asyncio.Transport", transport)
    return Cycle(
        scope=cast("Any", {"type": "http", "method": method}),
        transport=wire,
        flow=FlowControl(wire),
        logger=logging.getLogger(),
        access_logger=logging.getLogger(),
        access_log=False,
        default_headers=[],
        message_event=asyncio.Event(),
        expect_100_continue=False,
        keep_alive=keep_alive,
        on_response=lambda: None,
    )


async def send(cycle: Cycle, **message: object) -> None:
    await cycle.send(cast("Any", message))


async def start(cycle: Cycle, fields: Fields, **more: object) -> None:
    await send(cycle, type="http.response.start", status=200, headers=fields, **more)


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
