"""Messages between the node agent and its clients: one JSON object per packet, with file descriptors beside it.

The socket is of type SOCK_SEQPACKET, so the kernel keeps the bounds of messages, and descriptors arrive with the
message that they belong to. A client sends `{"verb": …, …}` and waits for the reply, `{"reply": {…}}` or
`{"error": {"reason", "message", "hint"}}`. The first verb is `hello` with the client's version of the protocol.
"""

from __future__ import annotations

import array
import contextlib
import json
import os
import socket
import stat
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from headrace.agent.errors import InvalidMessage

VERSION = 1
"""Of the protocol. Agent and client must have the same: they are installed with the same release."""
MESSAGE_BYTES = 65_536
"""Longest message. A packet must fit into a socket's send buffer (212,992 bytes by default)."""
MESSAGE_FDS = 16
"""Most file descriptors of one message."""
PACKET_FDS = 253
"""Most file descriptors of one packet (SCM_MAX_FD of Linux)."""
MESSAGE_CONTAINERS = 512
"""Most lists and objects of one message, so that nesting stays far below the interpreter's recursion limit."""
HELLO = "hello"
BATCH = "batch"
"""Verb: carry out `calls`, a list of at most `BATCH_CALLS` messages without descriptors, one after another. The reply
has `results`, each `{"reply": {…}, "fds": N}` or `{"error": {…}, "fds": 0}`; N of the descriptors belong to it."""
BATCH_CALLS = MESSAGE_FDS
"""The reply of a call in a batch has one descriptor at most."""
BATCH_REPLY_BYTES = MESSAGE_BYTES // BATCH_CALLS - 64
"""Longest reply of a call in a batch."""

_INT_BYTES = array.array("i").itemsize
RIGHTS_BYTES = socket.CMSG_SPACE(PACKET_FDS * _INT_BYTES)
"""For all descriptors of a packet: the kernel closes those without room, and waits for that (see `close_all`)."""
_UNREAD_BYTES = RIGHTS_BYTES + socket.CMSG_SPACE(3 * _INT_BYTES)
"""Likewise with credentials: process, user and group id."""


@dataclass(slots=True)
class Received:
    """A message and its descriptors, which belong to the receiver."""

    body: dict[str, Any]
    fds: list[int] = field(default_factory=list)


def encode(body: Mapping[str, object], longest: int = MESSAGE_BYTES) -> bytes:
    """Return the bytes of a message. Raises InvalidMessage if it is too long."""
    data = json.dumps(body, separators=(",", ":")).encode()
    if len(data) > longest:
        raise InvalidMessage(f"a message of {len(data):,} bytes is longer than {longest:,}")
    return data


def send(connected: socket.socket, data: bytes, fds: Iterable[int] = ()) -> None:
    """Send one message. Raises OSError."""
    numbers = array.array("i", fds)
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, numbers)] if numbers else []
    connected.sendmsg([data], rights, socket.MSG_NOSIGNAL)


def receive(connected: socket.socket) -> Received | None:
    """Receive one message, None at the end of the connection. Raises InvalidMessage, OSError.

    Without an error, the caller owns the descriptors.
    """
    data, rights, flags, _ = connected.recvmsg(MESSAGE_BYTES, RIGHTS_BYTES, socket.MSG_CMSG_CLOEXEC)
    fds = descriptors(rights)
    try:
        if not data:
            close_all(fds)
            return None
        return Received(_decode(data, flags, len(fds)), fds)
    except InvalidMessage:
        close_all(fds)
        raise


def descriptors(rights: Iterable[tuple[int, int, bytes]]) -> list[int]:
    """Return the file descriptors of a packet."""
    fds = array.array("i")
    for level, kind, content in rights:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(content[: len(content) - len(content) % _INT_BYTES])
    return list(fds)


def close_all(fds: Iterable[int]) -> None:
    """Close descriptors, without waiting: with SO_LINGER, a sender could block the closing process for hours."""
    for fd in fds:
        with contextlib.suppress(OSError):
            if stat.S_ISSOCK(os.fstat(fd).st_mode):
                _end_linger(fd)
        with contextlib.suppress(OSError):
            os.close(fd)


def _end_linger(fd: int) -> None:
    connected = socket.socket(fileno=fd)
    try:
        connected.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, bytes(2 * _INT_BYTES))
    finally:
        connected.detach()


def close_unread(connected: socket.socket) -> None:
    """Close a Unix socket of type SEQPACKET, and what it has not received as `close_all` does; the kernel would wait.

    With SO_PASSCRED, a packet without content and descriptors differs from the end of the connection.
    """
    with connected, contextlib.suppress(OSError):
        connected.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        connected.shutdown(socket.SHUT_RD)
        while rights := connected.recvmsg(1, _UNREAD_BYTES, socket.MSG_CMSG_CLOEXEC | socket.MSG_DONTWAIT)[1]:
            close_all(descriptors(rights))


def _decode(data: bytes, flags: int, fds: int) -> dict[str, Any]:
    if fds > MESSAGE_FDS:
        raise InvalidMessage(f"a message has more than {MESSAGE_FDS} file descriptors")
    if flags & socket.MSG_TRUNC:
        raise InvalidMessage(f"a message is longer than {MESSAGE_BYTES:,} bytes")
    if flags & socket.MSG_CTRUNC:
        raise InvalidMessage("the process has too many file descriptors open for those of a message")
    if data.count(b"[") + data.count(b"{") > MESSAGE_CONTAINERS:
        raise InvalidMessage(f"a message has more than {MESSAGE_CONTAINERS} lists and objects")
    try:
        body = json.loads(data)
    except ValueError as error:
        raise InvalidMessage("a message is not JSON") from error
    if not isinstance(body, dict):
        raise InvalidMessage("a message is not a JSON object")
    return body
