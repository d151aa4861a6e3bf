"""uvicorn on our socket, with what a door to the outside needs besides: bounds on what a client sends, and on how long
it takes to send or to read.

uvicorn's parser (llhttp, strict) refuses what two servers could read in two ways: a length and chunks at once, two
lengths, malformed chunks, bare line feeds in names. It has no bound on how much head it takes or how slowly, takes
trailers for headers, reads on for ever what nobody asks for any more, and waits for ever for a client that reads
nothing.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable

import uvicorn
from starlette.types import ASGIApp
from typing_extensions import override
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from headrace import headers
from headrace.serving.errors import InvalidRequest, RequestError
from headrace.serving.exchange import MAX_DISCARDED_BYTES, error_body
from headrace.serving.http import EmbeddedServer
from headrace_gateway.errors import HeadTooLarge
from headrace_gateway.exchange import CLIENT, MAX_HEAD_BYTES

HEAD_SECONDS = 30.0
"""From the connection, or from a request's first byte, to the end of its head: who is slower holds a door open."""
DISCARD_SECONDS = 5.0
"""How long the rest of a request is read whose answer was given already, so that a client that is still sending sees
the answer; and no more than `MAX_DISCARDED_BYTES` of it."""
MAX_FRAMING_BYTES = 8 * 1024
"""Received of a body without any of the body in it: trailers, which nobody needs, and extensions of chunks."""
WRITE_SECONDS = 60.0
"""A client that takes nothing for so long has gone, or means harm: what it was sent stays in memory until then."""
KEEP_ALIVE_SECONDS = 75
"""Idle connections of clients; SDKs and proxies give theirs up at 60 s and below, so that it is they who close."""


class BoundedHttpProtocol(HttpToolsProtocol):
    """See the module. It puts itself into the scope (`CLIENT`), so that a request can be told that its client left.

    ASGI's own way is a task per request that waits in `receive`; it costs a tenth of a whole request.
    """

    on_client_gone: Callable[[], None] | None = None
    """Called once when the connection is lost."""
    _head_timer: asyncio.TimerHandle | None = None
    _discard_timer: asyncio.TimerHandle | None = None
    _write_timer: asyncio.TimerHandle | None = None
    _taken: asyncio.Future[None] | None = None
    _head_bytes = 0
    _framing_bytes = 0
    _discarded_bytes = 0
    _in_head = False
    _in_body = False
    """Whether some of the body came with the bytes that are being read."""

    @override
    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as in uvicorn
        super().connection_made(transport)
        self._head_timer = self.loop.call_later(HEAD_SECONDS, transport.abort)

    @override
    def connection_lost(self, exc: Exception | None) -> None:
        for timer in (self._head_timer, self._discard_timer, self._write_timer):
            if timer is not None:
                timer.cancel()
        super().connection_lost(exc)
        if self.on_client_gone is not None:
            self.on_client_gone()

    @override
    def data_received(self, data: bytes) -> None:
        self._in_body = False
        super().data_received(data)
        cycle = self.cycle
        if self._in_head:
            self._head_bytes += len(data)
            if self._head_bytes > 2 * MAX_HEAD_BYTES:  # names and values are counted in `exchange`, exactly
                self._refuse(HeadTooLarge(f"the head of the request is larger than {2 * MAX_HEAD_BYTES >> 10} KiB"))
        elif cycle is None:
            return
        elif not cycle.more_body:
            if cycle.response_complete:
                self._be_idle()  # the end of what was discarded, or line ends between requests
        elif cycle.response_complete:
            self._discarded_bytes += len(data)
            if self._discarded_bytes > MAX_DISCARDED_BYTES:
                self.transport.close()
        elif not self._in_body:
            self._framing_bytes += len(data)
            if self._framing_bytes > MAX_FRAMING_BYTES:
                self._refuse(InvalidRequest(f"the trailers are larger than {MAX_FRAMING_BYTES >> 10} KiB"))

    @override
    def on_message_begin(self) -> None:
        self._in_head, self._head_bytes, self._framing_bytes, self._discarded_bytes = True, 0, 0, 0
        if self._head_timer is None:
            self._head_timer = self.loop.call_later(HEAD_SECONDS, self.transport.abort)
        super().on_message_begin()
        self.scope[CLIENT] = self  # type: ignore[literal-required]  # an extension of ours

    @override
    def on_headers_complete(self) -> None:
        self._in_head = False
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None
        super().on_headers_complete()
        self.headers = []  # a trailer goes here, and not into the scope: the request may be answered by now

    @override
    def on_body(self, body: bytes) -> None:
        self._in_body, self._framing_bytes = True, 0
        super().on_body(body)

    @override
    def on_message_complete(self) -> None:
        super().on_message_complete()
        if self._discard_timer is not None:
            self._discard_timer.cancel()
            self._discard_timer = None
            self.cycle.more_body = False

    @override
    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.transport.is_closing():
            self._expect_reading()
        elif self.cycle.response_complete and self.cycle.more_body:
            self._discard_timer = self.loop.call_later(DISCARD_SECONDS, self.transport.close)

    @override
    def pause_writing(self) -> None:
        super().pause_writing()
        self._expect_reading()

    @override
    def resume_writing(self) -> None:
        super().resume_writing()
        if self._write_timer is not None:
            self._write_timer.cancel()
        if self._taken is not None and not self._taken.done():
            self._taken.set_result(None)

    @override
    def timeout_keep_alive_handler(self) -> None:
        super().timeout_keep_alive_handler()
        self._expect_reading()  # the rest of the last answer may wait to be taken

    @override
    def send_400_response(self, msg: str) -> None:
        self._refuse(InvalidRequest("the request is not valid HTTP/1.1"))

    @property
    def body_arrived(self) -> bool:
        """Whether the newest request on the connection, and so every one before it, is here wholly."""
        return not self.cycle.more_body

    def watch(self, on_client_gone: Callable[[], None] | None) -> None:
        """Call it when the client goes away, from now on; None: call nothing."""
        self.on_client_gone = on_client_gone
        if on_client_gone is not None:
            self.flow.resume_reading()  # a socket that is not read tells nothing

    def blocked(self) -> asyncio.Future[None] | None:
        """Return a future that is done when the client has taken what was written; None when it takes more at once."""
        if not self.flow.write_paused:
            return None
        self._taken = self.loop.create_future()
        return self._taken

    def abort(self) -> None:
        """Close the connection; what was written and not taken is lost."""
        self.transport.abort()

    def _expect_reading(self) -> None:
        """Give the client time to take some of what was written."""
        if self._write_timer is not None:
            self._write_timer.cancel()
        left = self.transport.get_write_buffer_size()
        self._write_timer = self.loop.call_later(WRITE_SECONDS, self._judge_reading, left) if left else None

    def _judge_reading(self, before: int) -> None:
        if 0 < self.transport.get_write_buffer_size() >= before:
            self.transport.abort()
        else:
            self._expect_reading()

    def _be_idle(self) -> None:
        """Wait for the next request; uvicorn does so only when an answer ends, and any byte ends the waiting."""
        self._unset_keepalive_if_required()
        self.timeout_keep_alive_task = self.loop.call_later(self.timeout_keep_alive, self.timeout_keep_alive_handler)

    def _refuse(self, error: RequestError) -> None:
        """Answer and close; in the middle of another answer, close."""
        if self.transport.is_closing():
            return
        if self.cycle is None or self.cycle.response_complete:
            body = json.dumps(error_body(error)).encode()
            self.transport.write(
                STATUS_LINE[error.http_status]
                + f"content-type: application/json\r\ncontent-length: {len(body)}\r\n"
                f"{headers.REASON}: {error.reason}\r\nconnection: close\r\n\r\n".encode()
                + body
            )
        self.transport.close()


def gateway_server(app: ASGIApp, grace_seconds: float) -> EmbeddedServer:
    """Return the server; run it with `serve(sockets=[...])`, stop it with `should_exit`."""
    return EmbeddedServer(
        uvicorn.Config(
            app,
            log_config=None,
            log_level="warning",
            access_log=False,
            http=BoundedHttpProtocol,
            ws="none",
            lifespan="off",
            proxy_headers=False,  # nothing of ours depends on the client's address, and each await passes it
            server_header=False,
            date_header=False,
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=int(grace_seconds) + 1,
        )
    )
