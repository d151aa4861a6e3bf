"""A router's end of one socket: frames in, frames out through a bounded queue, on the event loop."""

from __future__ import annotations

import array
import asyncio
import logging
import os
import socket
from collections import deque
from collections.abc import Callable

from headrace.agent.messages import RIGHTS_BYTES, close_all, close_unread, descriptors
from headrace.bus.errors import InvalidFrame
from headrace.bus.frames import FRAME_BYTES, Frame, FrameBuffer

log = logging.getLogger(__name__)

QUEUED_FRAMES = 4096
"""Frames that wait for one socket; further ones are refused with the error FULL."""
_READ_BYTES = 256 * FRAME_BYTES


class Wire:
    """Reads frames from a connected socket and writes frames to it; used on one event loop only.

    Args:
        connected: stream or SEQPACKET socket; the wire owns it.
        on_frame: called for each frame.
        on_close: called once when the other side closed the socket or sent something else than frames.
    """

    def __init__(
        self, connected: socket.socket, on_frame: Callable[[Frame], None], on_close: Callable[[], None]
    ) -> None:
        connected.setblocking(False)
        self.socket = connected
        self._rights_bytes = RIGHTS_BYTES if connected.type == socket.SOCK_SEQPACKET else 0
        self._on_frame, self._on_close = on_frame, on_close
        self._buffer = FrameBuffer()
        self._queue: deque[tuple[bytes, int]] = deque()
        """Bytes to send, and the descriptor to send with them (-1: none), which the queue owns."""
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(connected, self._read)

    @property
    def closed(self) -> bool:
        """Whether the socket is closed."""
        return self.socket.fileno() < 0

    def rebind(self, on_frame: Callable[[Frame], None], on_close: Callable[[], None]) -> None:
        """Replace both callbacks."""
        self._on_frame, self._on_close = on_frame, on_close

    def send(self, frame: Frame, fd: int = -1) -> bool:
        """Send or queue a frame, with a descriptor that the wire takes over. False: the queue is full or closed."""
        if self.closed or len(self._queue) >= QUEUED_FRAMES:
            if fd >= 0:
                os.close(fd)
            return False
        self._queue.append((frame.encode(), fd))
        if len(self._queue) == 1:
            self._write()
        return not self.closed

    def close(self) -> None:
        """Close the socket and drop what is queued. `on_close` is not called."""
        if self.closed:
            return
        self._loop.remove_reader(self.socket)
        self._loop.remove_writer(self.socket)
        if self._rights_bytes:
            close_unread(self.socket)
        else:
            self.socket.close()
        for _, fd in self._queue:
            if fd >= 0:
                os.close(fd)
        self._queue.clear()

    def _read(self) -> None:
        try:
            data, rights, _, _ = self.socket.recvmsg(_READ_BYTES, self._rights_bytes, socket.MSG_CMSG_CLOEXEC)
            if rights:  # no frame has descriptors
                close_all(descriptors(rights))
            if not data:
                self._end()
                return
            for frame in self._buffer.feed(data):
                self._on_frame(frame)
                if self.closed:
                    return
        except BlockingIOError:
            return
        except (OSError, InvalidFrame) as error:
            log.warning("a connection to the bus is closed: %s", error)
            self._end()

    def _write(self) -> None:
        try:
            while self._queue:
                data, fd = self._queue[0]
                rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd]))] if fd >= 0 else []
                sent = self.socket.sendmsg([data], rights)
                if fd >= 0:
                    os.close(fd)
                if sent < len(data):
                    self._queue[0] = (data[sent:], -1)
                else:
                    self._queue.popleft()
        except BlockingIOError:
            self._loop.add_writer(self.socket, self._write)
        except OSError as error:
            log.info("a connection to the bus failed: %s", error)
            self._loop.call_soon(self._end)
        else:
            self._loop.remove_writer(self.socket)

    def _end(self) -> None:
        if not self.closed:
            self.close()
            self._on_close()
