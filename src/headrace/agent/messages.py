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
MESSAGE_CONTAINERS = 512
"""Most lists and objects of one message, so that nesting stays far below the interpreter's recursion limit."""
HELLO = "hello"

_INT_BYTES = array.array("i").itemsize


@dataclass(slots=True)
class Received:
    """A message and its descriptors, which belong to the receiver."""

    body: dict[str, Any]
    fds: list[int] = field(default_factory=list)


def encode(body: Mapping[str, object]) -> bytes:
    """Return the bytes of a message. Raises InvalidMessage if it is too long."""
    data = json.dumps(body, separators=(",", ":")).encode()
    if len(data) > MESSAGE_BYTES:
        raise InvalidMessage(f"a message of {len(data):,} bytes is longer than {MESSAGE_BYTES:,}")
    return data


def send(connected: socket.socket, data: bytes, fds: Iterable[int] = ()) -> None:
    """Send one message. Raises OSError."""
    numbers = array.array("i", fds)
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, numbers)] if numbers else []
    connected.sendmsg([data], rights, socket.MSG_NOSIGNAL)


def receive(connected: socket.socket) -> Received | None:
    """Receive one message, None at the end of the connection. Raises InvalidMessage, OSError.

    Without an error, the caller owns the descriptors. The kernel discards those above the bound.
    """
    data, rights, flags, _ = connected.recvmsg(
        MESSAGE_BYTES, socket.CMSG_SPACE(MESSAGE_FDS * _INT_BYTES), socket.MSG_CMSG_CLOEXEC
    )
    fds = array.array("i")
    for level, kind, content in rights:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(content[: len(content) - len(content) % _INT_BYTES])
    try:
        if not data:
            close_all(fds)
            return None
        return Received(_decode(data, flags), list(fds))
    except InvalidMessage:
        close_all(fds)
        raise


def close_all(fds: Iterable[int]) -> None:
    """Close descriptors."""
    for fd in fds:
        with contextlib.suppress(OSError):
            os.close(fd)


def _decode(data: bytes, flags: int) -> dict[str, Any]:
    if flags & socket.MSG_TRUNC:
        raise InvalidMessage(f"a message is longer than {MESSAGE_BYTES:,} bytes")
    if flags & socket.MSG_CTRUNC:
        raise InvalidMessage(
            f"a message has more than {MESSAGE_FDS} file descriptors, or the process has too many open"
        )
    if data.count(b"[") + data.count(b"{") > MESSAGE_CONTAINERS:
        raise InvalidMessage(f"a message has more than {MESSAGE_CONTAINERS} lists and objects")
    try:
        body = json.loads(data)
    except ValueError as error:
        raise InvalidMessage("a message is not JSON") from error
    if not isinstance(body, dict):
        raise InvalidMessage("a message is not a JSON object")
    return body
