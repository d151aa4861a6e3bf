"""Relays the response of a replica to the client: without hop-by-hop headers, the body unchanged.

A short response with a known length is collected first, so that the request can be retried if it breaks off. Every
other one is relayed piece by piece without parsing. In an event stream only the *ends* of events are searched: an event
is held back until it is complete, so that an error after a lost replica is an event of its own and not the tail of a
partial one.
"""

from __future__ import annotations

import json

from headrace import headers
from headrace.errors import HeadraceError
from headrace.http.answers import DONE
from headrace_gateway.exchange import Exchange
from headrace_gateway.upstream.connection import Connection, ConnectionLost, Head

MAX_COLLECTED_BYTES = 1024 * 1024
MAX_ERROR_BYTES = 64 * 1024
"""Of a replica's error that becomes an event of a stream; of a longer one only the status is sent."""
MAX_TORN_BYTES = 64 * 1024
"""A longer event is relayed in pieces."""

_HOP_BY_HOP = frozenset(
    {
        b"connection",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
        b"x-request-id",  # the gateway sets its own
        b"x-headrace-decision",
    }
)
_EVENT_STREAM = b"text/event-stream"
_EVENT_ENDS = (b"\n\n", b"\r\n\r\n")
_DECISION = headers.DECISION.encode()
_OK = 200


async def relay(exchange: Exchange, connection: Connection, head: Head, decision: bytes) -> None:
    """Relay the response. Raises ConnectionLost; a nonzero `exchange.status` means that the head was sent."""
    content_type = head.get(b"content-type") or b""
    events = content_type.lower().startswith(_EVENT_STREAM)
    if exchange.status:  # a stream that was started while the request was queued
        if head.status == _OK and events:
            await _pass_events(exchange, connection)
        else:
            await _end_with_answer(exchange, connection, head)
        return
    fields = _clean(head)
    fields.append((_DECISION, decision))
    length = _length(head)
    if events:  # no length: an error event may follow
        fields = [field for field in fields if field[0] != b"content-length"]
    if length is not None and length <= MAX_COLLECTED_BYTES and not events:
        body = await _collect(exchange, connection, length)
        exchange.note_first_byte()
        await exchange.answer(head.status, fields, body)
        return
    while not connection.complete and not connection.has_body:
        await exchange.wait(connection.changed())  # lost before the first byte of the body: retried elsewhere
    exchange.events = events
    await exchange.start(head.status, fields)
    await (_pass_events if events else _pass_bytes)(exchange, connection)


async def _collect(exchange: Exchange, connection: Connection, length: int) -> bytes:
    body = connection.take()
    while not connection.complete:
        await exchange.wait(connection.changed())
        body += connection.take()
    if len(body) != length:
        raise ConnectionLost("the body does not have its Content-Length", answered=True)
    return body


async def _pass_bytes(exchange: Exchange, connection: Connection) -> None:
    while True:
        piece = connection.take()
        if connection.complete:
            exchange.note_first_byte()
            await exchange.finish(piece)
            return
        if piece:
            exchange.note_first_byte()
            await exchange.write(piece)
        else:
            await exchange.wait(connection.changed())


async def _pass_events(exchange: Exchange, connection: Connection) -> None:
    torn = b""
    while True:
        piece = connection.take()
        if connection.complete:
            exchange.note_first_byte()
            await exchange.finish(torn + piece)
            return
        if not piece:
            await exchange.wait(connection.changed())
            continue
        if torn:
            piece, torn = torn + piece, b""
        if not piece.endswith(_EVENT_ENDS):
            end = max(piece.rfind(b"\n\n") + 2, piece.rfind(b"\r\n\r\n") + 4)
            if end < 4:  # noqa: PLR2004 - neither was found, or an empty event at the very start
                end = 0
            if len(piece) - end <= MAX_TORN_BYTES:
                piece, torn = piece[:end], piece[end:]
        if piece:
            exchange.note_first_byte()
            await exchange.write(piece)


async def _end_with_answer(exchange: Exchange, connection: Connection, head: Head) -> None:
    """Send a response that is not a stream, most likely an error, as an event: the head was already sent."""
    body = connection.take()
    while not connection.complete and len(body) <= MAX_ERROR_BYTES:
        await exchange.wait(connection.changed())
        body += connection.take()
    try:
        event = json.dumps(json.loads(body)).encode() if len(body) <= MAX_ERROR_BYTES else None
    except ValueError:
        event = None
    exchange.reason = (head.get(headers.REASON.encode()) or b"").decode("latin-1")
    if event is None:
        await exchange.fail(HeadraceError(f"the replica answered with status {head.status}"))
    else:
        await exchange.finish(b"data: " + event + b"\n\n" + DONE)


def _clean(head: Head) -> list[tuple[bytes, bytes]]:
    """Return the end-to-end headers."""
    named = head.get(b"connection")
    if named is None:
        return [field for field in head.headers if field[0] not in _HOP_BY_HOP]
    hop_by_hop = _HOP_BY_HOP | {token.strip() for token in named.lower().split(b",")}
    return [field for field in head.headers if field[0] not in hop_by_hop]


def _length(head: Head) -> int | None:
    length = head.get(b"content-length")
    return int(length) if length is not None else None
