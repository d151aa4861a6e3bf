"""uvicorn on our socket, with what a door to the outside needs besides: bounds on a request's head, in size and time.

uvicorn's parser (llhttp, strict) refuses what two servers could read in two ways: a length and chunks at once, two
lengths, malformed chunks, bare line feeds in names. It has no bound on how much head it takes or how slowly.
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
from headrace.serving.exchange import error_body
from headrace.serving.http import EmbeddedServer
from headrace_gateway.errors import HeadTooLarge
from headrace_gateway.exchange import CLIENT, MAX_HEAD_BYTES

HEAD_SECONDS = 30.0
"""From the connection, or from a request's first byte, to the end of its head: who is slower holds a door open."""
KEEP_ALIVE_SECONDS = 75
"""Idle connections of clients; SDKs and proxies give theirs up at 60 s and below, so that it is they who close."""


class BoundedHttpProtocol(HttpToolsProtocol):
    """See the module. It puts itself into the scope (`CLIENT`), so that a request can be told that its client left.

    ASGI's own way is a task per request that waits in `receive`; it costs a tenth of a whole request.
    """

    on_client_gone: Callable[[], None] | None = None
    """Called once when the connection is lost."""
    _head_timer: asyncio.TimerHandle | None = None
    _head_bytes = 0
    _in_head = False

    @override
    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as in uvicorn
        super().connection_made(transport)
        self._head_timer = self.loop.call_later(HEAD_SECONDS, transport.abort)

    @override
    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        super().connection_lost(exc)
        if self.on_client_gone is not None:
            self.on_client_gone()

    @override
    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._in_head:
            self._head_bytes += len(data)
            if self._head_bytes > 2 * MAX_HEAD_BYTES:  # names and values are counted in `exchange`, exactly
                self._refuse(HeadTooLarge(f"the head of the request is larger than {2 * MAX_HEAD_BYTES >> 10} KiB"))

    @override
    def on_message_begin(self) -> None:
        self._in_head, self._head_bytes = True, 0
        if self._head_timer is None:
            self._head_timer = self.loop.call_later(HEAD_SECONDS, self.transport.abort)
        super().on_message_begin()
        self.scope[CLIENT] = self  # type: ignore[literal-required]  # an extension of ours

    @override
    def on_headers_complete(self) -> None:
        self._in_head = False
        self._stop_timer()
        super().on_headers_complete()

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

    def _stop_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None


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
