"""The transport `unix`: a SOCK_SEQPACKET pair for each pair of endpoints of a node.

The first socket leads to the router, which names the endpoint, forwards frames from and to endpoints of other
transports, and hands out the direct sockets: before its first frame to a peer, an endpoint sends ROUTE, and the router
sends each of the two an end of a new socket pair (SCM_RIGHTS). So the frames of a pair all take one path, in order. A
frame on a direct socket must have the peer as its source.
"""

from __future__ import annotations

import array
import select
import socket
import time

from headrace.bus.errors import BusClosed, InvalidFrame
from headrace.bus.frames import FRAME_BYTES, ROUTER, ErrorCode, Frame, Kind, decode
from headrace.bus.transport import await_writable

_RIGHTS_BYTES = socket.CMSG_SPACE(array.array("i").itemsize)


class UnixTransport:
    """One endpoint's sockets.

    Args:
        inbox: the socket that the router issued (`Router.join_unix`); the transport owns it.
    """

    def __init__(self, inbox: socket.socket) -> None:
        self.name = "unix"
        self._inbox = inbox
        self._id = ROUTER
        self._paths: dict[int, socket.socket] = {}
        """Of each peer that a path is known for: its direct socket, or the inbox if the router forwards."""
        self._peers: dict[int, int] = {}
        """The peer of each direct socket's descriptor."""
        self._early: list[Frame] = []
        """Frames that arrived while a path was asked for."""
        self._epoll = select.epoll()
        inbox.setblocking(False)
        self._epoll.register(inbox.fileno(), select.EPOLLIN)
        self._answer = select.poll()
        self._answer.register(inbox, select.POLLIN)

    def send(self, frame: Frame, deadline: float) -> None:
        """See `Transport`. A peer that has closed is reported by an ERROR frame of `receive`."""
        path = self._paths.get(frame.dst) or self._ask(frame.dst, deadline)
        data = frame.encode()
        while True:
            try:
                path.send(data)
            except BlockingIOError:
                if await_writable(path.fileno(), deadline):
                    continue
                if path is self._inbox:
                    raise BusClosed("the bus accepted no frame in time", hint="Check the node agent") from None
                self._early += self._lose(frame.dst)  # it sends beyond its credits and does not read the answers
                return
            except OSError as error:
                if path is self._inbox:
                    raise BusClosed(f"the connection to the bus failed: {error.strerror or error}") from error
                self._early += self._lose(frame.dst)
                return
            else:
                return

    def receive(self, timeout: float) -> list[Frame]:
        """See `Transport`. Takes one frame of each socket, so that no peer keeps the others waiting."""
        frames, self._early = self._early, []
        for fd, _ in self._epoll.poll(0 if frames else timeout):
            if fd == self._inbox.fileno():
                self._read_inbox(frames)
            elif fd in self._peers:
                self._read_direct(self._peers[fd], frames)
        return frames

    def forget(self, peer: int) -> None:
        """See `Transport`."""
        path = self._paths.get(peer)
        if path is not None and path is not self._inbox:
            self._lose(peer)
        self._paths.pop(peer, None)

    def fileno(self) -> int:
        """See `Transport`."""
        return self._epoll.fileno()

    def close(self) -> None:
        """See `Transport`."""
        for peer in self._peers.values():
            self._paths[peer].close()
        self._inbox.close()
        self._epoll.close()

    def _ask(self, peer: int, deadline: float) -> socket.socket:
        """Ask the router for a path to a peer, and wait for the answer."""
        try:
            self._inbox.send(Frame(Kind.ROUTE, ROUTER, self._id, offset=peer).encode())
        except OSError as error:
            raise BusClosed(f"the connection to the bus failed: {error.strerror or error}") from error
        while peer not in self._paths:
            if not self._answer.poll(max(0.0, deadline - time.monotonic()) * 1000):
                raise BusClosed("the bus did not answer in time", hint="Check the node agent")
            self._read_inbox(self._early)
        return self._paths[peer]

    def _read_inbox(self, frames: list[Frame]) -> None:
        try:
            data, rights, _, _ = self._inbox.recvmsg(FRAME_BYTES + 1, _RIGHTS_BYTES, socket.MSG_CMSG_CLOEXEC)
        except BlockingIOError:
            return
        except OSError as error:
            raise BusClosed(f"the connection to the bus failed: {error.strerror or error}") from error
        passed = [socket.socket(fileno=array.array("i", content)[0]) for _, _, content in rights]
        if not data:
            raise BusClosed("the bus closed the connection", hint="Check the log of the agent, and join again")
        frame = decode(data)
        if frame.kind is Kind.WELCOME:
            self._id = frame.dst
        if frame.kind is Kind.ROUTE:
            self._learn(frame.offset, passed)
        else:
            frames.append(frame)

    def _learn(self, peer: int, passed: list[socket.socket]) -> None:
        if not passed:
            self._paths.setdefault(peer, self._inbox)
            return
        direct = passed[0]
        direct.setblocking(False)
        self._paths[peer] = direct
        self._peers[direct.fileno()] = peer
        self._epoll.register(direct.fileno(), select.EPOLLIN)

    def _read_direct(self, peer: int, frames: list[Frame]) -> None:
        try:
            data = _received(self._paths[peer])
        except BlockingIOError:
            return
        except OSError:
            data = b""
        frame = self._from_peer(peer, data)
        frames += [frame] if frame else self._lose(peer)

    def _from_peer(self, peer: int, data: bytes) -> Frame | None:
        """Return the frame, None if the peer closed or sent anything but a frame of its own."""
        try:
            frame = decode(data)
        except InvalidFrame:
            return None
        return frame if frame.src == peer and frame.dst == self._id else None

    def _lose(self, peer: int) -> list[Frame]:
        """Close the direct socket; later frames to the peer go to the router, which answers that it is unknown."""
        direct = self._paths[peer]
        self._epoll.unregister(direct.fileno())
        del self._peers[direct.fileno()]
        direct.close()
        self._paths[peer] = self._inbox
        return [Frame(Kind.ERROR, self._id, peer, offset=ErrorCode.UNKNOWN)]


def _received(direct: socket.socket) -> bytes:
    """Read a packet. Raises OSError."""
    try:
        return direct.recv(FRAME_BYTES + 1)
    except ConnectionResetError:  # reported once, before the frames that the peer sent until it closed
        return direct.recv(FRAME_BYTES + 1)
