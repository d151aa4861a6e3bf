"""The end of a connection: the last response is not lost, and a disconnected client does not occupy it.

- Lingering close (RFC 9112 §9.6): to a client that may still be sending, the server sends FIN after the last response,
  and reads and discards for a while. Unread bytes would make the kernel reset the connection, and a reset can drop a
  response that the client has not read yet.
- A client that half-closes the connection before the last response has begun gets its responses. Only sending
  something to it distinguishes it from one that has closed: see `_probe`. During the last response a FIN counts as a
  cancellation, so that a replica does not compute until its next piece.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, cast

from starlette.types import Scope
from typing_extensions import override
from uvicorn._types import ASGI3Application
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle
from uvicorn.server import ServerState

from headrace.http import heads
from headrace.http.bodies import MAX_DISCARDED_BYTES
from headrace.http.cycles import ExpectingCycle
from headrace.http.writing import WritingProtocol

DISCARD_SECONDS = 5.0
"""How long bytes after the last response are read and discarded; at most `MAX_DISCARDED_BYTES`."""
PROBE_SECONDS = (0.25, 0.05, 0.2, 1.0)
"""Time from a client's FIN to the first `100 Continue`, and between the further ones; the last value repeats. Most
responses are sent before the first. A client that has closed resets the connection at the first, and the second write
fails."""


class _ResponseTransport:
    """The transport of a response: closing it lingers."""

    __slots__ = ("close", "is_closing", "write")

    def __init__(self, transport: asyncio.Transport, close: Callable[[], None]) -> None:
        self.write = transport.write
        self.is_closing = transport.is_closing
        self.close = close


class ClosingProtocol(WritingProtocol):
    """See the module. The reading half sets `_in_head`, `_discarding` and `_refused`."""

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
        *,
        write_seconds: float | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop, write_seconds=write_seconds)
        self._response_transport: asyncio.Transport = None  # type: ignore[assignment]  # as uvicorn's transport: there once connected
        self._served: RequestResponseCycle | None = None
        """The request that was started last; later ones wait in the pipeline."""
        self._in_head = False
        self._refused = False
        """Whether the newest request was malformed and rejected."""
        self._discarding = False
        """Whether received bytes are discarded: the last request has arrived, or a malformed one."""
        self._discarded_bytes = 0
        self._lingering = False
        """Whether everything is written, and the connection stays open only until the client closes it."""
        self._half_closed = False
        """Whether the client has sent FIN."""
        self._discard_timer: asyncio.TimerHandle | None = None
        self._probe_timer: asyncio.TimerHandle | None = None

    @override
    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as in uvicorn
        super().connection_made(transport)
        self._response_transport = cast("asyncio.Transport", _ResponseTransport(transport, self._end))

    @override
    def connection_lost(self, exc: Exception | None) -> None:
        for timer in (self._discard_timer, self._probe_timer):
            if timer is not None:
                timer.cancel()
        super().connection_lost(exc)

    @override
    def shutdown(self) -> None:
        if self._lingering or self.cycle is None or self.cycle.response_complete:
            self.close()
        else:
            self._close_after(self.cycle)

    @property
    def _in_body(self) -> bool:
        """Whether the newest request's head has arrived and its end has not."""
        return self.cycle is not None and self.cycle.more_body

    def arrived_body(self, scope: Scope) -> bytes | None:
        """Return the body of a request; None if it has not arrived completely, or another request is served.

        Receiving it by ASGI costs two coroutines, which most requests do not need.
        """
        served = self._served
        if served is None or cast("Scope", served.scope) is not scope:  # it was refused, and the refusal is served
            return None
        if served.more_body or served.disconnected or served.waiting_for_100_continue:
            return None
        self.flow.resume_reading()
        served.message_event.clear()
        body, served.body = bytes(served.body), bytearray()
        return body

    @override
    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        self._served = cycle
        task = self.loop.create_task(cycle.run_asgi(app))
        task.add_done_callback(self.tasks.discard)
        self.tasks.add(task)

    @override
    def on_response_complete(self) -> None:
        if self._lingering:
            self.server_state.total_requests += 1
            return
        super().on_response_complete()
        if not self.transport.is_closing() and self.cycle.response_complete and self.cycle.more_body:
            self._close_after_discarding()

    def _close_after(self, cycle: RequestResponseCycle) -> None:
        cycle.keep_alive = False
        if isinstance(cycle, ExpectingCycle):
            cycle.may_stay = False

    def _end(self) -> None:
        """Close after the last response; with a client that may still be sending, linger."""
        if self.transport.is_closing() or self._lingering:
            return
        unread = self._discarding or self._in_head or self._in_body or self.pipeline or self._discarded_bytes
        self._discarding = True
        if self._half_closed or not unread:
            self.close()
            return
        self._lingering = True
        self.flow.resume_reading()
        self.transport.write_eof()
        self._close_after_discarding()
        self._start_write_timer()

    def _close_after_discarding(self) -> None:
        if self._discard_timer is not None:
            self._discard_timer.cancel()
        self._discard_timer = self.loop.call_later(DISCARD_SECONDS, self.close)

    def _discard(self, size: int) -> None:
        self._discarded_bytes += size
        if self._discarded_bytes > MAX_DISCARDED_BYTES:
            self.close()

    def _keep_for_responses(self) -> bool:
        """Return whether the connection is kept for responses to a client that has half-closed it."""
        cycle, served = self.cycle, self._served
        if cycle is None or cycle.response_complete or served is None:
            return False  # idle
        if served.response_started and served is cycle:
            return False  # disconnected: clients cancel a stream by closing the socket, and do not half-close it
        self._close_after(cycle)
        if self._probe_timer is None:
            self._probe_timer = self.loop.call_later(PROBE_SECONDS[0], self._probe, 1)
        return True

    def _probe(self, number: int) -> None:
        """Send an interim response, which clients skip; a client that has closed replies with a reset.

        HTTP/1.0 has no interim responses: such a client gets a response only if it begins before the first probe.
        """
        served = self._served
        if self.transport.is_closing() or served is None:
            return
        if not served.response_started:  # the pieces of a response serve as probes
            if served.scope["http_version"] == heads.HTTP_1_0:
                self.transport.close()
                return
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        pause = PROBE_SECONDS[min(number, len(PROBE_SECONDS) - 1)]
        self._probe_timer = self.loop.call_later(pause, self._probe, number + 1)
