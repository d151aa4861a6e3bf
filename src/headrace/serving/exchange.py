"""HTTP on the inference path: one request, its bounded body, and an answer that may be a stream.

Raw ASGI, because this code runs once per token and client: a framework's middleware would wrap each chunk several
times. All errors have OpenAI's shape: the response before the first byte, an event in the stream after it.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Any

from starlette.types import Message, Receive, Scope, Send

from headrace import headers
from headrace.errors import HeadraceError
from headrace.http.answers import CLIENT_CLOSED_REQUEST, DONE, STREAM_HEADERS, error_body, error_fields
from headrace.http.bodies import MAX_BODY_BYTES
from headrace.http.errors import ClientGone, MethodNotAllowed, NoSuchPath
from headrace.http.incoming import IncomingBody
from headrace.http.paths import PathTable
from headrace.serving.replica import Work

log = logging.getLogger(__name__)

_REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")


class Exchange:
    """One request and its answer."""

    def __init__(self, scope: Scope, receive: Receive, send: Send, max_body_bytes: int) -> None:
        self._scope = scope
        self._receive = receive
        self._send = send
        self._max_body_bytes = max_body_bytes
        self._began = time.perf_counter()
        self.headers: dict[bytes, bytes] = dict(scope["headers"])
        self.path: str = scope["path"]
        self.parameters: Mapping[str, str] = {}
        """Of the path's pattern, percent-decoded."""
        self.id = self._identify()
        self.status = 0
        """Of the answer; 0 until it starts."""
        self._warnings: list[tuple[bytes, bytes]] = []
        self.notes: dict[str, object] = {}
        """Further fields of the access log line; never text of the prompt."""

    @property
    def seconds(self) -> float:
        """How long the exchange has lasted."""
        return time.perf_counter() - self._began

    async def body(self) -> bytes:
        """Return the whole body. Raises UnsupportedContentEncoding, BodyTooLarge, BodyTooSlow, ClientGone."""
        declared = self.headers.get(b"content-length")
        return await IncomingBody(self._scope, self._receive).read(
            self._max_body_bytes,
            encoding=self.headers.get(b"content-encoding", b""),
            declared_bytes=None if declared is None else int(declared),  # the server's parser has checked it
        )

    def warn(self, text: str) -> None:
        """Add a warning to the answer's header: ASCII without line breaks."""
        self._warnings.append((headers.WARNING.encode(), text.encode("ascii")))

    @asynccontextmanager
    async def watching(self, work: Work[Any]) -> AsyncIterator[None]:
        """Stop the work as soon as the client disconnects."""
        watch = asyncio.create_task(self._watch(work))
        try:
            yield
        finally:
            watch.cancel()
            with suppress(asyncio.CancelledError):
                await watch

    async def respond(self, payload: Mapping[str, Any]) -> None:
        """Answer with JSON."""
        await self._respond(200, json.dumps(payload, ensure_ascii=False, separators=(",", ":")).encode())

    async def respond_text(
        self,
        status: int,
        text: bytes,
        content_type: bytes = b"text/plain; charset=utf-8",
        extra: Iterable[tuple[bytes, bytes]] = (),
    ) -> None:
        """Answer with text and further headers."""
        await self._respond(status, text, extra, content_type)

    async def start_stream(self) -> None:
        """Start an answer of server-sent events."""
        self.status = 200
        await self._send(self._head(self.status, STREAM_HEADERS))

    async def write(self, events: bytes) -> None:
        """Send events of the stream. Waits while the client is slower than the engine."""
        await self._send({"type": "http.response.body", "body": events, "more_body": True})

    async def finish(self, events: bytes) -> None:
        """Send the last events."""
        await self._send({"type": "http.response.body", "body": events, "more_body": False})

    async def fail(self, error: HeadraceError) -> None:
        """Answer with an error, or end the stream with one."""
        body = json.dumps(error_body(error)).encode()
        self.notes["reason"] = error.reason
        if self.status:
            await self.finish(b"data: " + body + b"\n\n" + DONE)
            return
        await self._respond(error.http_status, body, error_fields(error))

    def log_access(self) -> None:
        """Write the access line."""
        notes = "".join(f" {name}={value}" for name, value in self.notes.items())
        log.info("%s %s %d %.3fs id=%s%s", self._scope["method"], self.path, self.status, self.seconds, self.id, notes)

    def _identify(self) -> str:
        given = self.headers.get(headers.REQUEST_ID.encode(), b"").decode("latin-1")
        return given if _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex

    async def _watch(self, work: Work[Any]) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            continue
        work.stop(ClientGone())

    async def _respond(
        self,
        status: int,
        body: bytes,
        extra: Iterable[tuple[bytes, bytes]] = (),
        content_type: bytes = b"application/json",
    ) -> None:
        fields = ((b"content-type", content_type), (b"content-length", str(len(body)).encode()), *extra)
        self.status = status
        await self._send({**self._head(status, fields), "body": body})  # one write: see `headrace.http.cycles.Cycle`

    def _head(self, status: int, fields: Iterable[tuple[bytes, bytes]]) -> Message:
        request_id = (headers.REQUEST_ID.encode(), self.id.encode())
        return {"type": "http.response.start", "status": status, "headers": [*fields, *self._warnings, request_id]}


Handler = Callable[[Exchange], Awaitable[None]]
Handlers = Mapping[tuple[str, str], Handler]
"""By method and path pattern: `("POST", "/v2/models/{name}/infer")`."""


class Endpoints:
    """The ASGI application: maps paths to handlers, and their errors to responses.

    Requests for `quiet` paths are not logged: probes and scrapes come every second.
    """

    def __init__(
        self,
        handlers: Handlers,
        *,
        quiet: frozenset[str] = frozenset(),
        max_body_bytes: int = MAX_BODY_BYTES,
    ) -> None:
        self._handlers = PathTable(handlers)
        self._quiet = quiet
        self._max_body_bytes = max_body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            return
        exchange = Exchange(scope, receive, send, self._max_body_bytes)
        try:
            await self._serve(scope, exchange)
        except ClientGone:
            exchange.status = CLIENT_CLOSED_REQUEST
        except HeadraceError as error:
            await exchange.fail(error)
        except Exception as error:
            log.exception("request %s failed", exchange.id)
            await exchange.fail(HeadraceError(f"the server failed ({type(error).__name__}); see its log"))
        finally:
            if exchange.path not in self._quiet:
                exchange.log_access()

    async def _serve(self, scope: Scope, exchange: Exchange) -> None:
        found = self._handlers.match(scope)
        if found is not None:
            exchange.parameters = found.parameters
            await found.endpoint(exchange)
            return
        allow = self._handlers.allowed(scope)
        if allow is not None:
            raise MethodNotAllowed(f"{exchange.path} does not take {scope['method']}", allow=allow)
        raise NoSuchPath(f"there is no {exchange.path[:200]} here", hint="GET /v1/models lists what is served")
