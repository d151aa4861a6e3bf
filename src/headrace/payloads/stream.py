"""Payloads over TCP: each is a frame of the bus with its length, then its bytes; a frame with ACK releases it.

A connection begins with a frame HELLO that has the receiver's token. It carries one payload at a time: the receiver
reads the next one when the former is released, so each sender takes the memory of one payload.
"""

from __future__ import annotations

import contextlib
import hmac
import logging
import secrets
import select
import socket
import time
from collections import deque
from collections.abc import Callable

from typing_extensions import override

from headrace.bus.errors import AckTimeout, BusClosed, CreditTimeout, InvalidFrame
from headrace.bus.frames import DATA_KINDS, FRAME_BYTES, ROUTER, Frame, FrameBuffer, Kind, decode
from headrace.payloads.address import Address
from headrace.payloads.payload import Payload, PayloadCounts, PayloadPath
from headrace.payloads.sender import Sender

log = logging.getLogger(__name__)

CONNECTIONS = 256
"""Senders of one receiver; further ones are disconnected."""
STALL_SECONDS = 30.0
"""A sender that began a frame or a payload, or that has not sent its token, is disconnected after this time."""
_CONNECT_SECONDS = 5.0
_READ_BYTES = 256 * FRAME_BYTES


class StreamSender(Sender):
    """Sends to a TCP address; see `Sender`. Raises BusClosed: nothing listens there."""

    def __init__(self, to: Address, why_not: str) -> None:
        super().__init__(PayloadPath.TCP, why_not)
        self._buffer = bytearray()
        self._sent = self._acked = 0
        self._acks = FrameBuffer()
        try:
            self._socket = socket.create_connection((to.host, to.port), _CONNECT_SECONDS)
        except OSError as error:
            raise _closed(f"nothing listens at {to.host}:{to.port}: {error.strerror or error}") from error
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._send(Frame(Kind.HELLO, ROUTER, key=to.token).encode(), _CONNECT_SECONDS)

    @override
    def _allocate(self, size: int, timeout: float) -> memoryview:
        del timeout
        if len(self._buffer) < size:
            self._buffer = bytearray(size)
        return memoryview(self._buffer)[:size]

    @override
    def _hand_over(self, size: int, kind: Kind, value: int, timeout: float) -> None:
        if self._acked < self._sent:
            self._read_acks(0)  # the receiver disconnects a sender that never reads
        head = Frame(kind, ROUTER, seq=self._sent + 1, length=size, value=value).encode()
        self._send(head, timeout)
        self._send(memoryview(self._buffer)[:size], timeout)
        self._sent += 1

    @override
    def wait(self, timeout: float) -> None:
        """See `Sender`."""
        deadline = time.monotonic() + timeout
        while self._acked < self._sent:
            if not self._read_acks(max(0.0, deadline - time.monotonic())):
                raise AckTimeout(
                    ROUTER, f"the receiver did not release payload {self._sent} in {timeout:g} s",
                    hint="Treat the receiver as dead: send the payload to another one",
                )  # fmt: skip

    def _read_acks(self, timeout: float) -> bool:
        """Read the acknowledgements that have arrived; wait for the first. False: none in time. Raises BusClosed."""
        self._socket.settimeout(timeout)
        try:
            data = self._socket.recv(_READ_BYTES)
        except (TimeoutError, BlockingIOError):
            return False
        except OSError as error:
            raise _closed(error.strerror or str(error)) from error
        if not data:
            raise _closed("it closed the connection")
        for frame in self._acks.feed(data):
            self._acked = max(self._acked, frame.seq)
        return True

    @override
    def close(self) -> None:
        """See `Sender`."""
        super().close()
        self._socket.close()

    def _send(self, data: bytes | memoryview, timeout: float) -> None:
        self._socket.settimeout(timeout)
        try:
            self._socket.sendall(data)
        except TimeoutError as error:
            self._socket.close()  # a part has left: the stream is unusable
            raise CreditTimeout(
                ROUTER, f"the receiver did not read a payload in {timeout:g} s", hint="Check that it releases payloads"
            ) from error
        except OSError as error:
            raise _closed(error.strerror or str(error)) from error


def _closed(cause: str) -> BusClosed:
    return BusClosed(
        f"the connection to the receiver of payloads failed: {cause}", hint="Check that it runs, and its log"
    )


class StreamInbox:
    """The receiver's side. Raises OSError: the port is in use."""

    def __init__(self, host: str, port: int, counts: PayloadCounts, max_bytes: int) -> None:
        self.token = secrets.token_bytes(16)
        self._counts, self._max = counts, max_bytes
        self._listener = socket.create_server((host, port))
        self._listener.setblocking(False)
        self.port: int = self._listener.getsockname()[1]
        self._connections: dict[int, _Connection] = {}
        self._arrived: deque[Payload] = deque()
        self._epoll = select.epoll()
        self._epoll.register(self._listener, select.EPOLLIN)

    def fileno(self) -> int:
        """Return a descriptor that is readable when `take` has work."""
        return self._epoll.fileno()

    def soon(self, left: float | None) -> float | None:
        """Return how long to wait at most, `left` seconds or until a connection may have stalled; None: no limit."""
        if not any(each.unfinished for each in self._connections.values()):
            return left
        return STALL_SECONDS if left is None else min(left, STALL_SECONDS)

    def take(self) -> Payload | None:
        """Return the next payload that is complete; read what has arrived."""
        for fd, _ in self._epoll.poll(0):
            if fd == self._listener.fileno():
                self._accept()
            elif fd in self._connections:
                self._read(self._connections[fd])
        before = time.monotonic() - STALL_SECONDS
        for each in [each for each in self._connections.values() if each.unfinished and each.active < before]:
            self._drop(each, "it stalled")
        return self._arrived.popleft() if self._arrived else None

    def close(self) -> None:
        """Close all connections."""
        for each in self._connections.values():
            each.socket.close()
        self._connections.clear()
        self._listener.close()
        self._epoll.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            connected, _ = self._listener.accept()
            if len(self._connections) >= CONNECTIONS:
                self._counts.refused += 1
                connected.close()
                return
            connected.setblocking(False)
            connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._connections[connected.fileno()] = _Connection(connected)
            self._epoll.register(connected, select.EPOLLIN)

    def _read(self, connection: _Connection) -> None:
        try:
            if not connection.fill():
                self._drop(connection, "")
            elif connection.complete:
                self._advance(connection)
        except BlockingIOError:
            return
        except (OSError, InvalidFrame) as error:
            self._drop(connection, str(error))

    def _advance(self, connection: _Connection) -> None:
        """Handle a frame, or a payload, that has arrived whole."""
        frame = connection.frame
        if frame is not None:
            self._epoll.unregister(connection.socket)  # until it is released
            self._counts.add(PayloadPath.TCP, frame.length)
            memory = connection.target.toreadonly()
            self._arrived.append(Payload(frame, memory, PayloadPath.TCP, self._released(connection, frame)))
            return
        frame = decode(connection.head)
        if not connection.greeted:
            connection.greeted = frame.kind is Kind.HELLO and hmac.compare_digest(frame.key, self.token)
            if not connection.greeted:
                self._drop(connection, "it has not the receiver's token")
            connection.expect_frame()
        elif frame.kind not in DATA_KINDS or not 0 < frame.length <= self._max:
            self._drop(connection, f"a payload has {frame.length:,} bytes; 1 to {self._max:,} are allowed")
        else:
            connection.expect_payload(frame)

    def _released(self, connection: _Connection, frame: Frame) -> Callable[[], None]:
        def released() -> None:
            connection.expect_frame()
            if connection.socket.fileno() < 0:
                return
            try:
                connection.socket.send(Frame(Kind.ACK, ROUTER, seq=frame.seq).encode())
                self._epoll.register(connection.socket, select.EPOLLIN)
            except OSError as error:  # also a full buffer: the sender never reads
                self._drop(connection, str(error))

        return released

    def _drop(self, connection: _Connection, cause: str) -> None:
        if cause:
            self._counts.refused += 1
            log.warning("a sender of payloads is disconnected: %s", cause)
        self._connections.pop(connection.socket.fileno(), None)
        connection.socket.close()


class _Connection:
    """One sender: what it is sending, and where that is stored."""

    def __init__(self, connected: socket.socket) -> None:
        self.socket = connected
        self.greeted = False
        self.head = bytearray(FRAME_BYTES)
        self.frame: Frame | None = None
        """Of the payload that follows; None while a frame is expected."""
        self._payload = bytearray()
        self.expect_frame()

    def expect_frame(self) -> None:
        """Read a frame next."""
        self.frame = None
        self._expect(memoryview(self.head))

    def expect_payload(self, frame: Frame) -> None:
        """Read the payload of a frame next."""
        self.frame = frame
        if len(self._payload) < frame.length:
            self._payload = bytearray(frame.length)
        self._expect(memoryview(self._payload)[: frame.length])

    def _expect(self, target: memoryview) -> None:
        self.target, self._got, self.active = target, 0, time.monotonic()

    @property
    def complete(self) -> bool:
        """Whether all that is expected has arrived."""
        return self._got == len(self.target)

    @property
    def unfinished(self) -> bool:
        """Whether the sender is to send more: its token, the rest of a frame, or of a payload."""
        return not self.complete and (not self.greeted or self.frame is not None or self._got > 0)

    def fill(self) -> bool:
        """Read once; False at the end of the connection. Raises OSError, BlockingIOError."""
        count = self.socket.recv_into(self.target[self._got :])
        self._got += count
        self.active = time.monotonic()
        return count > 0
