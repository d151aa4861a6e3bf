"""The end of a connection: answers are not lost with it, and a client that has gone does not keep it.

- Before it is closed on a client that may still be sending, what it sends is read for a while and thrown away. Unread
  bytes would make the kernel reset the connection, and the client might lose the answer.
- A client that has sent its requests and half-closes the connection before the last answer has begun is answered. Only
  what is sent to it tells it from one that has closed: see `_probe`. During the last answer the end of what it sends is
  taken for a cancellation, so that a replica does not compute on until its next piece.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, cast

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
"""How long the rest of a request is read whose answer was given already, so that a client that is still sending sees
the answer; and no more than `MAX_DISCARDED_BYTES` of it."""
PROBE_SECONDS = (0.25, 0.05, 0.2, 1.0)
"""Between the end of what a client sends and the first `100 Continue`, and between the further ones; the last value
repeats. Most answers come before the first. A client that has closed resets the connection at the first, and the second
finds out."""


class _Wire:
    """The transport as an answer sees it: closing it waits for the client."""

    __slots__ = ("close", "is_closing", "write")

    def __init__(self, transport: asyncio.Transport, close: Callable[[], None]) -> None:
        self.write = transport.write
        self.is_closing = transport.is_closing
        self.close = close


class ClosingProtocol(WritingProtocol):
    """See the module. The reading half sets `_in_head`, `_deaf` and `_refused`."""

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
        self._wire: asyncio.Transport = None  # type: ignore[assignment]  # as uvicorn's transport: there once connected
        self._served: RequestResponseCycle | None = None
        """The request that was started last; those after it wait in the pipeline."""
        self._in_head = False
        self._refused = False
        """Whether the newest request could not be read."""
        self._deaf = False
        """Whether what is received is thrown away: the last request is here, or one that could not be read."""
        self._discarded_bytes = 0
        self._lingering = False
        """Whether everything is written, and the connection stays only until the client has stopped sending."""
        self._half_closed = False
        """Whether the client sends no more."""
        self._discard_timer: asyncio.TimerHandle | None = None
        self._probe_timer: asyncio.TimerHandle | None = None

    @override
    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as in uvicorn
        super().connection_made(transport)
        self._wire = cast("asyncio.Transport", _Wire(transport, self._end))

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
        """Whether the newest request's head is here and its end is not."""
        return self.cycle is not None and self.cycle.more_body

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
        """Close when the client has what was written; one that may still be sending is read from until it stops."""
        if self.transport.is_closing() or self._lingering:
            return
        unread = self._deaf or self._in_head or self._in_body or self.pipeline or self._discarded_bytes
        self._deaf = True
        if self._half_closed or not unread:
            self.close()
            return
        self._lingering = True
        self.flow.resume_reading()
        self.transport.write_eof()
        self._close_after_discarding()
        self._expect_reading()

    def _close_after_discarding(self) -> None:
        if self._discard_timer is not None:
            self._discard_timer.cancel()
        self._discard_timer = self.loop.call_later(DISCARD_SECONDS, self.close)

    def _discard(self, size: int) -> None:
        self._discarded_bytes += size
        if self._discarded_bytes > MAX_DISCARDED_BYTES:
            self.close()

    def _await_answers(self) -> bool:
        """Return whether the connection is kept for answers to a client that sends no more."""
        cycle, served = self.cycle, self._served
        if cycle is None or cycle.response_complete or served is None:
            return False  # idle
        if served.response_started and served is cycle:
            return False  # gone: a client that cancels a stream closes its socket, and none half-closes it
        self._close_after(cycle)
        if self._probe_timer is None:
            self._probe_timer = self.loop.call_later(PROBE_SECONDS[0], self._probe, 1)
        return True

    def _probe(self, number: int) -> None:
        """Send what any client skips: from one that has closed, it brings a reset instead of silence.

        HTTP/1.0 knows no interim answers: such a client is answered if that takes no longer than the first probe.
        """
        served = self._served
        if self.transport.is_closing() or served is None:
            return
        if not served.response_started:  # pieces of an answer are probes enough
            if served.scope["http_version"] == heads.HTTP_1_0:
                self.transport.close()
                return
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        pause = PROBE_SECONDS[min(number, len(PROBE_SECONDS) - 1)]
        self._probe_timer = self.loop.call_later(pause, self._probe, number + 1)
