"""The client side of one request: its head, its bounded body, and the response.

Raw ASGI, because every chunk of every stream passes here. Errors have OpenAI's shape: as a response before the first
byte, as an event inside a stream after it.
"""

from __future__ import annotations

import asyncio
import json
import re
import secrets
from collections.abc import Callable, Iterable
from itertools import count
from time import perf_counter

from starlette.types import Receive, Scope, Send

from headrace import headers
from headrace.errors import HeadraceError
from headrace.http.answers import DONE, STREAM_HEADERS, error_body, error_fields
from headrace.http.errors import ClientGone
from headrace.http.incoming import IncomingBody
from headrace.http.protocol import CLIENT, HttpProtocol, check_guard
from headrace_gateway.errors import InvalidApiKey

Headers = Iterable[tuple[bytes, bytes]]

_PROCESS = secrets.token_hex(8).encode()
_NUMBERS = count()
_REQUEST_ID = re.compile(rb"[A-Za-z0-9._:-]{1,128}")
_FORWARDED = frozenset(
    {
        *(b"content-type", b"accept", b"user-agent", b"traceparent", b"tracestate", b"baggage"),
        b"inference-header-content-length",  # of the Open Inference Protocol's binary tensors
    }
)
"""Client headers that are forwarded to replicas. An allow list, so that API keys, cookies and headers meant to confuse
parsers are not forwarded."""


class Exchange:
    """See the module."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.began = perf_counter()
        self.status = 0
        """Of the answer; 0 until its head is sent."""
        self.reason = ""
        self.sent_bytes = 0
        self.first_byte_at: float | None = None
        self.events = False
        """Whether the answer is a stream of server-sent events."""
        self.on_blocked: Callable[[], None] | None = None
        """Called before a wait for a client that has not read what was written."""
        self.forwarded: list[tuple[bytes, bytes]] = []
        self._scope = scope
        self._body = IncomingBody(scope, receive)
        self._send = send
        self._authorization: list[bytes] = []
        self._encoding = b""
        self.declared_bytes: int | None = None
        """Of the body; None when it comes in chunks."""
        self._gone: Exception | None = None
        self._waiting: asyncio.Future[None] | None = None
        self._client: HttpProtocol = scope[CLIENT]
        request_id = b""
        for name, value in scope["headers"]:
            if name in _FORWARDED:
                self.forwarded.append((name, value))
            elif name == b"authorization":
                self._authorization.append(value)
            elif name == b"x-request-id":
                request_id = value
            elif name == b"content-length":
                self.declared_bytes = int(value)  # the server's parser has checked it
            elif name == b"content-encoding":
                self._encoding = value
        self.id = request_id if request_id and _REQUEST_ID.fullmatch(request_id) else _new_id()

    # -- the request ------------------------------------------------------------------------------------------------

    @property
    def received_bytes(self) -> int:
        """Of the body."""
        return self._body.received_bytes

    def authorization(self) -> bytes | None:
        """Return the Authorization header. Raises InvalidApiKey if there are several."""
        if len(self._authorization) > 1:
            raise InvalidApiKey("there is more than one Authorization header", hint="Send one")
        return self._authorization[0] if self._authorization else None

    def check_guard(self) -> None:
        """Raise the guard's objection to the request, if it has one now."""
        check_guard(self._scope)

    async def body(self, limit: int) -> bytes:
        """Return the whole body. Raises UnsupportedContentEncoding, BodyTooLarge, BodyTooSlow, ClientGone."""
        return await self._body.read(limit, encoding=self._encoding, declared_bytes=self.declared_bytes)

    # -- the client's connection ---------------------------------------------------------------------------------------

    def watch(self) -> None:
        """From now on `wait` raises ClientGone as soon as the client has disconnected."""
        self._client.watch(self._client_gone)

    async def wait(self, change: asyncio.Future[None]) -> None:
        """Wait for a future of this gateway; raises the error of `abort` as soon as it is called."""
        if self._gone is not None:
            change.cancel()
            raise self._gone
        self._waiting = change
        try:
            await change
        finally:
            self._waiting = None

    def abort(self, error: Exception) -> None:
        """End the exchange with an error at its present or next wait. The first error is kept."""
        if self._gone is None:
            self._gone = error
            if self._waiting is not None and not self._waiting.done():
                self._waiting.set_exception(error)

    def close(self) -> None:
        """Stop watching the client."""
        self._client.watch(None)

    def _client_gone(self) -> None:
        self.abort(ClientGone())

    # -- the response ------------------------------------------------------------------------------------------------

    async def start(self, status: int, fields: Headers) -> None:
        """Send the head of the answer."""
        if (taken := self._client.blocked()) is not None:
            await self._wait_for_client(taken)
        self.status = status
        await self._send({"type": "http.response.start", "status": status, "headers": [*fields, (_ID, self.id)]})

    async def answer(self, status: int, fields: Headers, body: bytes) -> None:
        """Send a complete answer."""
        if (taken := self._client.blocked()) is not None:
            await self._wait_for_client(taken)
        self.status = status
        self.sent_bytes += len(body)
        head = [*fields, (_ID, self.id)]
        await self._send({"type": "http.response.start", "status": status, "headers": head, "body": body})

    async def start_stream(self) -> None:
        """Start an event stream before a replica is available."""
        self.events = True
        await self.start(200, STREAM_HEADERS)

    def note_first_byte(self) -> None:
        """Note the time of the first byte of the model's answer; the gateway's own comments do not count."""
        if self.first_byte_at is None:
            self.first_byte_at = perf_counter()

    async def write(self, piece: bytes) -> None:
        """Send a piece of the body. Waits while the client is slower than the replica."""
        if (taken := self._client.blocked()) is not None:
            await self._wait_for_client(taken)
        self.sent_bytes += len(piece)
        await self._send({"type": "http.response.body", "body": piece, "more_body": True})

    async def finish(self, piece: bytes = b"") -> None:
        """Send the last piece."""
        if (taken := self._client.blocked()) is not None:
            await self._wait_for_client(taken)
        self.sent_bytes += len(piece)
        await self._send({"type": "http.response.body", "body": piece, "more_body": False})

    async def fail(self, error: HeadraceError) -> None:
        """Respond with an error, or end the stream with one.

        Another response that has begun stays incomplete: the server then closes its connection, which is the only
        signal to the client.
        """
        self.reason = error.reason
        if self._client.blocked() is not None:
            self._client.abort()  # it has not even read what was written before
            return
        body = json.dumps(error_body(error)).encode()
        if self.status:
            if self.events:
                await self.finish(b"data: " + body + b"\n\n" + DONE)
            return
        fields = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        await self.answer(error.http_status, fields + error_fields(error), body)

    async def _wait_for_client(self, taken: asyncio.Future[None]) -> None:
        """Wait until the client has read what was written; here and not in the server, so that `abort` ends it."""
        if self.on_blocked is not None:
            self.on_blocked()
        await self.wait(taken)


_ID = headers.REQUEST_ID.encode()


def _new_id() -> bytes:
    """Return an id that is unique over gateways and restarts: 32 hex digits, as a UUID has."""
    return b"%s%016x" % (_PROCESS, next(_NUMBERS))
