"""HTTP/1.1 for public servers: uvicorn's protocol with limits, and without ambiguous messages.

The parser (llhttp, strict) rejects most messages that two servers could read differently: a length and chunks at once,
two lengths, malformed chunks, folded lines, bare line ends. The remaining checks are here and in `heads`:

- `Upgrade` is ignored (RFC 9110 §7.8). The parser treats the bytes after such a head as another protocol; here the head
  is parsed again without that field, so that the body is read by its length.
- A malformed request gets an error after the responses to the requests before it, and nothing after it is read.
- Each phase has its own limits: the head, and the framing of a body (trailers, extensions of chunks).

The end of a connection is in `closing`, the time limit of writes in `writing`.
"""

from __future__ import annotations

import asyncio
import logging
import urllib.parse
from collections.abc import Callable
from functools import partial
from typing import Any, cast

import httptools
from httptools.parser.url_parser import URL
from starlette.types import Scope
from typing_extensions import override
from uvicorn._types import ASGI3Application, HTTPScope
from uvicorn.config import Config
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle
from uvicorn.server import ServerState

from headrace.http import heads
from headrace.http.answers import Refusal
from headrace.http.closing import ClosingProtocol
from headrace.http.cycles import Cycle, ExpectingCycle, UnchunkedCycle
from headrace.http.errors import HeadTooSlow, MalformedRequest, RequestError

log = logging.getLogger(__name__)

HEAD_SECONDS = 30.0
"""From the connection, or a request's first byte, to the end of its head; bounds slow clients."""
MAX_FRAMING_BYTES = 8 * 1024
"""Bytes of a body that are not content: trailers, which are not used, and extensions of chunks."""
CLIENT = "headrace.client"
"""Key of the ASGI scope: the protocol itself, for requests that watch their connection."""
_GUARD_CHECK = "headrace.guard"
"""Key of the ASGI scope: the guard's check of the request."""

Guard = Callable[[str, bytes | None, bytes | None], RequestError | None]
"""From path, host and origin of a request to the error of one that is not served, or None."""


def check_guard(scope: Scope) -> None:
    """Check a request again: the guard's data may have been loaded since. Raises its objection."""
    check: Callable[[], RequestError | None] | None = scope.get(_GUARD_CHECK)
    objection = check() if check is not None else None
    if objection is not None:
        raise objection


class _Stop(Exception):
    """Raised in the parser's callbacks to stop parsing."""


class HttpProtocol(ClosingProtocol):
    """See the module. It is in the scope (`CLIENT`), so that a request can watch for the disconnection of its client.

    In plain ASGI that takes a task per request that waits in `receive`, and a tenth of the cost of a request.
    """

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
        *,
        guard: Guard | None = None,
        write_seconds: float | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop, write_seconds=write_seconds)
        self.parser = httptools.HttpRequestParser(self)  # without uvicorn's leniency
        self.on_disconnect: Callable[[], None] | None = None
        """Called once when the connection is lost."""
        self._guard = guard
        self._head_timer: asyncio.TimerHandle | None = None
        self._head = heads.Head()
        self._last = False
        """Whether the newest request is the last one on the connection."""
        self._arrived: tuple[RequestResponseCycle, ASGI3Application] | None = None
        """A request to start once the received bytes are parsed."""
        self._packet_bytes = 0
        """Size of the packet that is being parsed."""
        self._most_bytes = 0
        """Upper bound of the received size of the present head."""
        self._fresh_bytes = 0
        """Size of the packet if no request has ended in it: lower bound of a head that begins in it."""
        self._open_bytes = 0
        """Lower bound of the received size of the present head; of a body: bytes received since its last content."""
        self._left_out: list[tuple[bytes, bytes]] = []
        """The `Upgrade` fields of a head that is parsed again; its size was counted before."""
        self._progress = False
        """Whether the present packet contained the end of a head, or content of a body."""

    # -- the connection --------------------------------------------------------------------------------------------

    @override
    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as in uvicorn
        super().connection_made(transport)
        self._head_timer = self.loop.call_later(HEAD_SECONDS, self._on_head_timeout)

    @override
    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_head_timer()
        super().connection_lost(exc)
        if self.on_disconnect is not None:
            self.on_disconnect()

    @override
    def data_received(self, data: bytes) -> None:
        self._unset_keepalive_if_required()
        if self._discarding:
            self._discard(len(data))
            return
        self._packet_bytes = self._fresh_bytes = size = len(data)
        self._progress = False
        if self._in_head:
            self._open_bytes += size
            self._most_bytes += size
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as pause:
            self._parse_on(memoryview(data)[pause.args[0] :])
        except httptools.HttpParserError as error:
            self._not_http(error)
        if not self._discarding:
            self._check_bounds(size)
        if self._arrived is not None:
            self._start_arrived()

    @override
    def eof_received(self) -> bool:  # type: ignore[override]  # asyncio's protocols may; uvicorn's does not
        """Return whether to keep the connection for pending responses."""
        if self._lingering:
            return False
        self._half_closed = True
        if not self._discarding and (self._in_head or self._in_body):
            self._refuse(MalformedRequest("the request ended before it was complete"))
            self._start_arrived()
        return self._keep_for_responses()

    # -- reading ---------------------------------------------------------------------------------------------------

    def _parse_on(self, rest: memoryview) -> None:
        """Continue after a head with `Upgrade`, at which the parser stops."""
        try:
            while True:
                self._read_head_again()
                try:
                    self.parser.feed_data(rest)
                except httptools.HttpParserUpgrade as pause:
                    rest = rest[pause.args[0] :]
                else:
                    return
        except httptools.HttpParserError as error:
            self._not_http(error)

    def _not_http(self, error: httptools.HttpParserError) -> None:
        if not self._discarding:
            log.debug("not HTTP/1.1: %s %s", error, error.__context__ or "")
            self._refuse(MalformedRequest(f"the request is not valid HTTP/1.1 ({error})"))

    def _read_head_again(self) -> None:
        """Parse the newest head without `Upgrade`; with it the parser would skip the body."""
        line = b"%s %s HTTP/%s\r\n" % (self.parser.get_method(), self.url, self.parser.get_http_version().encode())
        lines = [b"%s: %s\r\n" % field for field in self.headers if field[0] != b"upgrade"]
        self.parser = httptools.HttpRequestParser(self)
        self._left_out = [field for field in self.headers if field[0] == b"upgrade"]
        try:
            self.parser.feed_data(b"".join((line, *lines, b"\r\n")))
        finally:
            self._left_out = []

    @override
    def on_message_begin(self) -> None:
        if self._discarding:
            raise _Stop
        self._in_head = True
        self._head = heads.Head()
        if not self._left_out:
            self._open_bytes, self._most_bytes, self._discarded_bytes = self._fresh_bytes, self._packet_bytes, 0
        self.url, self.headers = b"", []
        scope = {
            "type": "http",
            "asgi": {"version": self.asgi_version, "spec_version": "2.3"},
            "http_version": heads.HTTP_1_1,
            "server": self.server,
            "client": self.client,
            "scheme": self.scheme,
            "root_path": "",
            "headers": self.headers,
            CLIENT: self,
        }
        self.scope = cast("HTTPScope", scope)

    @override
    def on_header(self, name: bytes, value: bytes) -> None:
        name = name.lower()
        self.headers.append((name, value))
        if name in heads.NOTED and self._in_head:
            self._head.note(name, value)

    @override
    def on_headers_complete(self) -> None:
        parser, head = self.parser, self._head
        method, version = parser.get_method(), parser.get_http_version()
        if parser.should_upgrade() and method != b"CONNECT":
            return  # see `_read_head_again`
        self._in_head, self._progress = False, True
        self._stop_head_timer()
        fault = head.check(method, version)
        if self._most_bytes > heads.MAX_HEAD_BYTES:
            fault = heads.check_size(method, self.url, (*self.headers, *self._left_out)) or fault
        if fault is not None:
            self._refuse(fault)
            raise _Stop
        self._open_bytes = 0
        self.headers = []  # for trailers, which do not belong into the scope: the response may have been sent
        scope, target = self.scope, self._target()
        path = (target.path or b"/").decode("ascii")
        scope["method"], scope["http_version"] = method.decode("ascii"), version
        scope["path"] = urllib.parse.unquote(path) if "%" in path else path
        scope["raw_path"], scope["query_string"] = target.path or b"/", target.query or b""
        app = self.app
        if self._guard is not None:
            check = partial(self._guard, scope["path"], _authority(target) or head.host, head.origin)
            cast("Scope", scope)[_GUARD_CHECK] = check
            objection = check()
            if objection is not None:
                app = cast("ASGI3Application", Refusal(objection))
        self._last = version == heads.HTTP_1_0 or not parser.should_keep_alive()
        kind: type[Cycle] = Cycle
        if version == heads.HTTP_1_0:
            kind = UnchunkedCycle
        elif head.expects_continue:
            kind = ExpectingCycle
        idle = self.cycle is None or self.cycle.response_complete
        self.cycle = self._cycle(kind, scope, keep_alive=not self._last, expect=head.expects_continue)
        self._queue(app, at_once=idle)

    def _target(self) -> URL:
        try:
            return httptools.parse_url(self.url)
        except httptools.HttpParserInvalidURLError:
            self._refuse(MalformedRequest("the target of the request is not a path"))
            raise _Stop from None

    @override
    def on_body(self, body: bytes) -> None:
        self._progress = True
        cycle = self.cycle
        if cycle.response_complete:
            return
        cycle.body += body
        if len(cycle.body) > HIGH_WATER_LIMIT:
            self.flow.pause_reading()
        cycle.message_event.set()

    @override
    def on_message_complete(self) -> None:
        if self._in_head:
            return  # the end of a head with `Upgrade`, which is parsed again
        if self.headers and heads.lines_size(self.headers) > MAX_FRAMING_BYTES:
            self._refuse(_trailers_too_large())
            raise _Stop
        self._fresh_bytes = 0
        self.cycle.more_body = False
        self.cycle.message_event.set()
        if self._discard_timer is not None:
            self._discard_timer.cancel()
            self._discard_timer = None
        self._discarding = self._last

    def _check_bounds(self, received: int) -> None:
        cycle = self.cycle
        if self._in_head:
            if self._open_bytes > heads.MAX_HEAD_BYTES:
                self._refuse(heads.too_large())
            elif self._head_timer is None:  # most heads fit into one packet
                self._head_timer = self.loop.call_later(HEAD_SECONDS, self._on_head_timeout)
        elif cycle is None:
            return
        elif not cycle.more_body:
            if cycle.response_complete:
                self._start_keep_alive_timer()  # the end of a discarded body, or line ends between requests
        elif cycle.response_complete:
            self._discard(received)
        elif self._progress:
            self._open_bytes = 0
        else:
            self._open_bytes += received
            if self._open_bytes > MAX_FRAMING_BYTES:
                self._refuse(_trailers_too_large())

    def _stop_head_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _on_head_timeout(self) -> None:
        if self._in_head:
            self._refuse(HeadTooSlow(f"the head of the request did not arrive within {HEAD_SECONDS:.0f} s"))
            self._start_arrived()
        else:
            self.transport.abort()

    # -- requests and answers --------------------------------------------------------------------------------------

    def _refuse(self, error: RequestError) -> None:
        """Respond with an error after the pending responses, and close. Nothing more is read."""
        self._discarding = self._last = self._refused = True
        self._stop_head_timer()
        broken, at_once = self.cycle, self.cycle is None or self.cycle.response_complete
        if self._in_body and not at_once:
            if self._arrived is not None and self._arrived[0] is broken:
                self._arrived, at_once = None, True
            elif self.pipeline and self.pipeline[0][0] is broken:
                self.pipeline.popleft()
            elif broken.response_started:
                self.close()
                return
            else:
                broken.disconnected = at_once = True
                broken.message_event.set()
        elif self._in_body:  # the response was sent before the end of the request
            self._end()
            return
        scope = cast("HTTPScope", {"type": "http", "method": "GET", "http_version": heads.HTTP_1_1, "headers": []})
        self.cycle = self._cycle(Cycle, scope, keep_alive=False)
        self.cycle.more_body = False
        self._queue(cast("ASGI3Application", Refusal(error)), at_once=at_once)

    def _cycle(self, kind: type[Cycle], scope: HTTPScope, *, keep_alive: bool, expect: bool = False) -> Cycle:
        return kind(
            scope=scope,
            transport=self._response_transport,
            flow=self.flow,
            logger=self.logger,
            access_logger=self.access_logger,
            access_log=self.config.access_log,
            default_headers=self.server_state.default_headers,
            message_event=asyncio.Event(),
            expect_100_continue=expect,
            keep_alive=keep_alive,
            on_response=self.on_response_complete,
        )

    def _queue(self, app: ASGI3Application, *, at_once: bool) -> None:
        if at_once:
            self._arrived = (self.cycle, app)
        else:
            if not self._refused:  # otherwise bytes are discarded; a paused socket would not report a disconnection
                self.flow.pause_reading()
            self.pipeline.appendleft((self.cycle, app))

    def _start_arrived(self) -> None:
        if self._arrived is not None:
            (cycle, app), self._arrived = self._arrived, None
            self._start_asgi_task(cycle, app)

    def _start_keep_alive_timer(self) -> None:
        """Start the keep-alive timer; uvicorn does so only at the end of a response, and any byte stops it."""
        self._unset_keepalive_if_required()
        self.timeout_keep_alive_task = self.loop.call_later(self.timeout_keep_alive, self.timeout_keep_alive_handler)

    # -- interface of requests -------------------------------------------------------------------------------------

    def watch(self, on_disconnect: Callable[[], None] | None) -> None:
        """Call the function when the client disconnects; None: stop watching."""
        self.on_disconnect = on_disconnect
        if on_disconnect is not None:
            self.flow.resume_reading()  # a paused socket would not report a disconnection


def _authority(target: URL) -> bytes | None:
    """Return the host of a target in absolute form, in the form of a Host field."""
    return b"[%s]" % target.host if b":" in (target.host or b"") else target.host


def _trailers_too_large() -> MalformedRequest:
    return MalformedRequest(f"the trailers are larger than {MAX_FRAMING_BYTES >> 10} KiB")
