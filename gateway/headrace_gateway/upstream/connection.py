"""One keep-alive connection to a replica; it carries one exchange at a time.

The body is not parsed: its pieces are passed on as they are received, joined when several are waiting. When the client
is slower than the replica, reading stops at `PAUSE_BYTES`, so a stream of any length takes bounded memory.

To wait for something, check `head`, `take()` or `complete`; when there is nothing yet, await `changed()` and check
again.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Callable
from typing import NamedTuple, cast

import httptools
from typing_extensions import override

PAUSE_BYTES = 256 * 1024
"""Received and not yet taken: reading stops here and goes on at a quarter of it."""
MAX_HEAD_BYTES = 64 * 1024
"""Status line and headers, interim responses (1xx) included. A larger head ends the exchange with an error."""

_RESET = struct.pack("ii", 1, 0)
"""Value of SO_LINGER: closing resets the connection."""
_NO_BODY = frozenset({204, 304})


class UpstreamError(Exception):
    """The exchange with a replica failed below HTTP; the message is a short cause."""


class ConnectFailed(UpstreamError):
    """No connection could be made: nothing was sent."""


class Unreachable(ConnectFailed):
    """Nothing answers at the address. A refused connection is not this error: the machine has answered."""


class NotProven(ConnectFailed):
    """The process at the address did not prove to be the replica."""


class ConnectionLost(UpstreamError):
    """The connection ended, or carried something that is not HTTP, before the response was complete.

    `answered`: whether any byte of the response had arrived.
    """

    def __init__(self, message: str, *, answered: bool) -> None:
        super().__init__(message)
        self.answered = answered


class ReplicaUnresponsive(ConnectionLost):
    """The replica is unresponsive: it neither reports, nor answers probes, nor sends anything."""


class Head(NamedTuple):
    """Status and headers of an answer; names are in lower case."""

    status: int
    headers: tuple[tuple[bytes, bytes], ...]

    def get(self, name: bytes) -> bytes | None:
        """Return the first value of a header."""
        for each, value in self.headers:
            if each == name:
                return value
        return None


class Connection(asyncio.Protocol):
    """See the module. Made by `Pool`."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.head: Head | None = None
        self.complete = True
        """Whether the whole answer has arrived; its body can still be taken."""
        self.idle_since = 0.0
        """On the loop's clock: when the last answer was complete."""
        self.received = False
        """Whether anything was received since `Pool.received_any` was last called."""
        self.last = False
        """Whether it is closed after the present exchange."""
        self.closed_by_replica = False
        """Whether the replica has closed it unexpectedly."""
        self._aborted = False
        self._loop = loop
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._waiter: asyncio.Future[None] | None = None
        self._on_complete: Callable[[], None] | None = None
        self._error: ConnectionLost | None = None
        self._keep_alive = True
        self._answered = False
        self._headers: list[tuple[bytes, bytes]] = []
        self._head_bytes = 0
        self._until_close = False
        self._chunks: list[bytes] = []
        self._waiting_bytes = 0
        self._paused = False

    @property
    def reusable(self) -> bool:
        """Whether another request may be sent on it now."""
        return (
            self.complete
            and not self.last
            and self._keep_alive
            and self._error is None
            and not self._chunks
            and self._transport is not None
            and not self._transport.is_closing()
        )

    @property
    def has_body(self) -> bool:
        """Whether `take` would return something."""
        return bool(self._chunks)

    def send(self, request: bytes) -> None:
        """Send a request, head and body. The answer to the one before must be complete."""
        assert self.complete
        self.head = None
        self.complete = False
        self._answered = False
        self._head_bytes = 0
        self._until_close = False
        self._on_complete = None
        if self._transport is None:
            self._error = ConnectionLost("closed right after it was opened", answered=False)
        elif not self._transport.is_closing():
            self._transport.write(request)

    def take(self) -> bytes:
        """Return the bytes of the body that have arrived; empty if there are none now."""
        chunks = self._chunks
        if not chunks:
            return b""
        body = chunks[0] if len(chunks) == 1 else b"".join(chunks)
        self._chunks = []
        self._waiting_bytes = 0
        if self._paused:
            self._paused = False
            if self._transport is not None:
                self._transport.resume_reading()
        return body

    def changed(self) -> asyncio.Future[None]:
        """Return a future that is done at the next change of `head`, `take()` or `complete`. Raises ConnectionLost."""
        if self._error is not None:
            raise self._error
        self._waiter = self._loop.create_future()
        return self._waiter

    def when_complete(self, callback: Callable[[], None]) -> None:
        """Call it as soon as the whole answer has arrived, taken or not."""
        if self.complete:
            callback()
        else:
            self._on_complete = callback

    def lose(self, error: ConnectionLost) -> None:
        """End the exchange with an error, and close at once."""
        if self._error is None:
            self._error = error
        self.abort()
        self._wake()

    def abort(self) -> None:
        """Close at once, so that the replica stops working on this exchange.

        The connection is reset: a FIN alone may come from a client that half-closed and waits for its answer.
        """
        self._aborted = True
        if self._transport is not None:
            connected = self._transport.get_extra_info("socket")
            if connected is not None and not self.complete:
                connected.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            self._transport.abort()

    # -- asyncio.Protocol ------------------------------------------------------------------------------------------

    @override
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    @override
    def data_received(self, data: bytes) -> None:
        self.received = True
        if self.complete:
            self.abort()  # not requested: it could be taken for the answer to the next request
            return
        self._answered = True
        if self.head is None:
            self._head_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self._fail("the answer is not HTTP/1.1")
            return
        if self._head_bytes > MAX_HEAD_BYTES and self._is_head_too_large():
            self._fail(f"the head of the answer is larger than {MAX_HEAD_BYTES >> 10} KiB")
            return
        if self._waiting_bytes > PAUSE_BYTES and not self._paused and not self.complete:
            self._paused = True
            assert self._transport is not None
            self._transport.pause_reading()
        self._wake()

    @override
    def connection_lost(self, exc: Exception | None) -> None:
        if self.complete:
            self.closed_by_replica = self._keep_alive and not self._aborted
            self._keep_alive = False
        elif self._until_close and exc is None:
            self._completed()
        elif self._error is None:
            cause = str(exc) if exc is not None else "closed before the answer was complete"
            self._error = ConnectionLost(cause, answered=self._answered)
            self.closed_by_replica = True
        self._transport = None
        self._wake()

    # -- httptools -------------------------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        """Begin a head; a second answer to one request is a fault."""
        if self.complete:
            self._keep_alive = False
        self._headers = []

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header line; trailers are ignored."""
        if self.head is None:
            self._headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        """End a head; interim ones (1xx) are not the answer."""
        status = self._parser.get_status_code()
        if status < 200 or self.complete:  # noqa: PLR2004 - HTTP's classes
            return
        head = Head(status, tuple(self._headers))
        self._keep_alive = self._parser.should_keep_alive()
        framed = head.get(b"content-length") is not None or head.get(b"transfer-encoding") is not None
        self._until_close = not framed and status not in _NO_BODY
        self.head = head

    def on_body(self, body: bytes) -> None:
        """Take a piece of the body."""
        if not self.complete:
            self._chunks.append(body)
            self._waiting_bytes += len(body)

    def on_message_complete(self) -> None:
        """End the answer, unless it was an interim one."""
        if self.head is not None:
            self._completed()

    # ----------------------------------------------------------------------------------------------------------------

    def _is_head_too_large(self) -> bool:
        """Return whether a head exceeds its limit; body bytes that arrived with its end do not count."""
        if self.head is not None:
            self._head_bytes = sum(len(name) + len(value) for name, value in self.head.headers)
        return self._head_bytes > MAX_HEAD_BYTES

    def _completed(self) -> None:
        self.complete = True
        self.idle_since = self._loop.time()
        if self._on_complete is not None:
            self._on_complete()
            self._on_complete = None

    def _fail(self, message: str) -> None:
        self.lose(ConnectionLost(message, answered=True))

    def _wake(self) -> None:
        waiter = self._waiter
        if waiter is not None:
            self._waiter = None
            if waiter.done():
                return
            if self._error is not None and not self._chunks:
                waiter.set_exception(self._error)
            else:
                waiter.set_result(None)
