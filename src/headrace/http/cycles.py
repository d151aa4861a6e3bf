"""uvicorn's cycle of one request and response, with fewer writes, `Expect: 100-continue` and HTTP/1.0."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

from typing_extensions import override
from uvicorn._types import ASGIReceiveEvent, ASGISendEvent
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, RequestResponseCycle

_CONTROLS = bytes({*range(0x20), 0x7F} - {0x09})
"""Not allowed in a header field (RFC 9110 §5.5): they could end the head early."""
_NAMES = b"!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyz"
"""The characters of names: tokens (RFC 9110 §5.6.2), in lower case, as the names are compared here."""
_WITHOUT_BODY = frozenset({204, 304})


class Cycle(RequestResponseCycle):
    """One request and its answer.

    The start message of a complete response may have the key `body`: head and body are written at once, and no further
    message follows. Each write costs a system call and a wake-up of the client. Names of header fields are in lower
    case, as always in ASGI.
    """

    @override
    async def send(self, message: ASGISendEvent) -> None:
        if self.flow.write_paused and not self.disconnected:
            await self.flow.drain()
        if self.disconnected:
            return
        if self.response_complete:
            raise RuntimeError("the answer was complete before this message")
        content = cast("Mapping[str, Any]", message)
        expected = "http.response.body" if self.response_started else "http.response.start"
        if content["type"] != expected:
            raise RuntimeError(f"the answer's next message is {content['type']}, and must be {expected}")
        head = b""
        if not self.response_started:
            self.response_started, self.waiting_for_100_continue = True, False
            head = self._head(content["status"], content.get("headers", []))
            if "body" not in content:
                self.transport.write(head)
                return
        body, more = content.get("body", b""), content.get("more_body", False)
        if piece := head + self._framed(body, more=more):
            self.transport.write(piece)
        if not more:
            self._complete()

    def _head(self, status: int, fields: Sequence[tuple[bytes, bytes]]) -> bytes:
        pieces = [STATUS_LINE[status]]
        closes = False
        for name, value in fields:
            if name == b"content-length" and self.chunked_encoding is None:
                self.expected_content_length, self.chunked_encoding = int(value), False
            elif name == b"transfer-encoding" and value.lower() == b"chunked":
                self.expected_content_length, self.chunked_encoding = 0, True
            elif name == b"connection":
                closes |= b"close" in [token.strip() for token in value.lower().split(b",")]
            pieces += (name, b": ", value, b"\r\n")
        text = b"".join(pieces)
        line_ends = len(text) - len(text.translate(None, _CONTROLS))
        if line_ends != len(b"\r\n") * (len(fields) + 1):
            raise RuntimeError("a header field of the answer has control characters")
        names = [name for name, _ in fields]
        if not all(names) or b"".join(names).translate(None, _NAMES):
            raise RuntimeError("a header field of the answer has a name that is no token in lower case")
        if closes:
            self.keep_alive = False
        elif not self.keep_alive:
            text += b"connection: close\r\n"
        if self.chunked_encoding is None and self.scope["method"] != "HEAD" and status not in _WITHOUT_BODY:
            self.chunked_encoding = True
            text += b"transfer-encoding: chunked\r\n"
        return text + b"\r\n"

    def _framed(self, body: bytes, *, more: bool) -> bytes:
        """Return a piece of the body with its framing."""
        if self.scope["method"] == "HEAD":
            self.expected_content_length = 0
            return b""
        if self.chunked_encoding:
            chunk = b"%x\r\n%b\r\n" % (len(body), body) if body else b""
            return chunk if more else chunk + b"0\r\n\r\n"
        self.expected_content_length -= len(body)
        if self.expected_content_length < 0:
            raise RuntimeError("the body of the answer is longer than its Content-Length")
        return body

    def _complete(self) -> None:
        if self.expected_content_length:
            raise RuntimeError("the body of the answer is shorter than its Content-Length")
        self.response_complete = True
        self.message_event.set()
        if not self.keep_alive:
            self.transport.close()
        self.on_response()


class ExpectingCycle(Cycle):
    """The client waits for `100 Continue` before it sends the body.

    A client that gets another response first may send the body or not: the following bytes are ambiguous, so the
    connection is closed.
    """

    def __init__(self, *, keep_alive: bool, **rest: Any) -> None:
        super().__init__(keep_alive=False, **rest)
        self.may_stay = keep_alive
        """Whether the connection is kept once `100 Continue` was sent."""

    @override
    async def receive(self) -> ASGIReceiveEvent:
        if self.waiting_for_100_continue:
            self.keep_alive = self.may_stay
        return await super().receive()


class UnchunkedCycle(Cycle):
    """For HTTP/1.0, which has no chunks: a response without a length ends with the connection."""

    @override
    async def send(self, message: ASGISendEvent) -> None:
        self.chunked_encoding = False
        self.expected_content_length = len(cast("Mapping[str, Any]", message).get("body", b""))
        await super().send(message)

    @override
    def _head(self, status: int, fields: Sequence[tuple[bytes, bytes]]) -> bytes:
        return super()._head(status, [field for field in fields if field[0] != b"transfer-encoding"])
