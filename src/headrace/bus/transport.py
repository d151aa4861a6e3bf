"""How an endpoint is connected to the bus.

`tcp`: a TCP connection to a router, which forwards each frame in user space; between nodes, and where no agent runs.
`sockmap`: the same connection, inserted into the agent's sockhash, so that the kernel delivers the frames (`client`).
`unix`: a socket pair per pair of endpoints, which the router hands out; see `headrace.bus.unix`.
"""

from __future__ import annotations

import select
import socket
import time
from typing import Protocol

from headrace.bus.errors import BusClosed, JoinRefused
from headrace.bus.frames import FRAME_BYTES, ROUTER, Frame, FrameBuffer, Kind

READ_BYTES = 1024 * FRAME_BYTES
_JOIN_SECONDS = 5.0


class Transport(Protocol):
    """Carries the frames of one endpoint, in order per pair of endpoints."""

    @property
    def name(self) -> str:
        """`tcp`, `sockmap` or `unix`."""

    def send(self, frame: Frame, deadline: float) -> None:
        """Hand a frame to the kernel before `deadline` (seconds of `time.monotonic`).

        Raises:
            BusClosed: the connection ended, or it accepted no bytes until the deadline.
        """

    def receive(self, timeout: float) -> list[Frame]:
        """Return the frames that have arrived; wait up to `timeout` seconds for the first. Empty if there is none.

        Raises:
            BusClosed: the router closed the connection.
            InvalidFrame: the router sent something else than frames.
        """

    def forget(self, peer: int) -> None:
        """Drop what is known of a peer that has left."""

    def fileno(self) -> int:
        """Return a descriptor that is readable when frames have arrived."""

    def close(self) -> None:
        """Leave the bus. The endpoint's id is void from now on."""


class StreamTransport:
    """A TCP connection to a router.

    Args:
        address: host and port of the router.
        token: 16 bytes that the router issued for this join (`Router.expect`).

    Raises:
        BusClosed: nothing listens at the address.
    """

    def __init__(self, address: tuple[str, int], token: bytes) -> None:
        self.name = "tcp"
        try:
            self.socket = socket.create_connection(address, _JOIN_SECONDS)
        except OSError as error:
            raise BusClosed(
                f"cannot connect to the bus at {address[0]}:{address[1]}: {error.strerror or error}",
                hint="Check that the node agent runs and that network policies allow the port",
            ) from error
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.setblocking(False)
        self._buffer = FrameBuffer()
        self._readable = select.poll()
        self._readable.register(self.socket, select.POLLIN)
        self.send(Frame(Kind.HELLO, ROUTER, key=token), time.monotonic() + _JOIN_SECONDS)

    def send(self, frame: Frame, deadline: float) -> None:
        """See `Transport`."""
        data = frame.encode()
        while data:
            try:
                data = data[self.socket.send(data) :]
            except BlockingIOError:
                if not await_writable(self.fileno(), deadline):
                    self.close()  # a part of the frame may have left: the stream is unusable
                    raise BusClosed("the bus accepted no bytes in time", hint="Check the node agent") from None
            except OSError as error:
                raise BusClosed(f"the connection to the bus failed: {error.strerror or error}") from error

    def receive(self, timeout: float) -> list[Frame]:
        """See `Transport`."""
        if not self._readable.poll(timeout * 1000):
            return []
        try:
            data = self.socket.recv(READ_BYTES)
        except BlockingIOError:
            return []
        except OSError as error:
            raise BusClosed(f"the connection to the bus failed: {error.strerror or error}") from error
        if not data:
            raise BusClosed("the bus closed the connection", hint="Check the log of the node agent, and join again")
        return list(self._buffer.feed(data))

    def forget(self, peer: int) -> None:
        """See `Transport`. The router knows the peers."""

    def fileno(self) -> int:
        """See `Transport`."""
        return self.socket.fileno()

    def close(self) -> None:
        """See `Transport`."""
        self.socket.close()


def await_welcome(transport: Transport) -> list[Frame]:
    """Return the router's WELCOME, which is the first frame of every transport, and the frames read with it.

    Raises:
        JoinRefused: no WELCOME in time, or the router closed the connection: the token is unknown, used or expired.
    """
    deadline = time.monotonic() + _JOIN_SECONDS
    while (left := deadline - time.monotonic()) > 0:
        try:
            frames = transport.receive(left)
        except BusClosed as error:
            raise JoinRefused("the bus refused the endpoint", hint="Ask the agent for a new token") from error
        if frames:
            if frames[0].kind is Kind.WELCOME:
                return frames
            raise JoinRefused("the bus did not begin with WELCOME", hint="Check that the port is that of the bus")
    raise JoinRefused("no WELCOME from the bus in time", hint="Check the node agent")


def await_writable(fd: int, deadline: float) -> bool:
    """Wait until a descriptor is writable; False at the deadline (seconds of `time.monotonic`)."""
    poll = select.poll()
    poll.register(fd, select.POLLOUT)
    return bool(poll.poll(max(0.0, deadline - time.monotonic()) * 1000))
