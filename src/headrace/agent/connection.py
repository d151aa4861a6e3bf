"""The client's end of a connection to the node agent."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import weakref
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Self

from headrace.agent import messages
from headrace.agent.errors import AgentError, AgentUnavailable, InvalidMessage, from_report
from headrace.agent.messages import Received
from headrace.unix_socket import address_of

_REPLY_SECONDS = 60.0
"""Default time limit of a call: sealing an object of several GB hashes it first."""
_CONNECT_SECONDS = 5.0


class AgentConnection:
    """One session with the agent. Any thread may call; calls are carried out one after another.

    The agent knows the tenant from the socket, never from the client. What the session holds at the agent (leases,
    endpoints) ends with the connection, so a process that crashes leaves nothing behind. After a fork, the child has no
    connection: its copy is closed, as the session belongs to the parent.

    Args:
        path: the agent's Unix socket.
        reply_seconds: time limit of a call; after it the connection is closed, because a late reply would be taken for
            that of the next call.

    Raises:
        AgentUnavailable: nothing listens on the socket, or no reply in time.
        AgentVersionMismatch: the agent has another version of the protocol.
        TooManySessions: the tenant or the agent has the most sessions that it may have.
    """

    def __init__(self, path: Path, *, reply_seconds: float = _REPLY_SECONDS) -> None:
        self.path = path
        self._lock = threading.Lock()
        """Guards the socket: one call at a time."""
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        _OPEN.add(self)
        try:
            self._socket.settimeout(_CONNECT_SECONDS)
            with address_of(path) as address:
                self._socket.connect(address)
            answer = self.call(messages.HELLO, {"version": messages.VERSION}).body
            self._socket.settimeout(reply_seconds)
        except OSError as error:
            self.close()
            raise self._unavailable(error.strerror or str(error)) from error
        except AgentError:
            self.close()
            raise
        self.tenant = str(answer["tenant"])
        self.label = str(answer["label"])

    def call(self, verb: str, fields: dict[str, Any] | None = None, fds: Iterable[int] = ()) -> Received:
        """Send a message and return the reply, whose file descriptors belong to the caller.

        Args:
            verb: what the agent is to do.
            fields: the verb's arguments, as JSON values.
            fds: file descriptors for the agent, which gets copies of them.

        Raises:
            AgentUnavailable: the agent closed the connection or did not reply in time; the connection is closed.
            AgentError: the agent reports an error, as the subclass with its reason.
        """
        data = messages.encode({**(fields or {}), "verb": verb})
        with self._lock:
            if self._socket.fileno() < 0:
                raise self._unavailable("the connection is closed")
            try:
                with contextlib.suppress(BrokenPipeError):  # an agent that refuses says why before it closes
                    messages.send(self._socket, data, fds)
                received = _receive(self._socket)
            except (OSError, InvalidMessage) as error:
                self._socket.close()
                raise self._unavailable(str(error) or "timed out") from error
            if received is None:
                self._socket.close()
                raise self._unavailable("the agent closed the connection")
        return _result(received)

    def call_many(self, calls: Sequence[dict[str, Any]]) -> list[Received | AgentError]:
        """Send up to `BATCH_CALLS` messages, each with its verb, as one; return the reply or the error of each.

        Raises AgentUnavailable: see `call`.
        """
        answer = self.call(messages.BATCH, {"calls": list(calls)})
        results: list[Received | AgentError] = []
        fds = iter(answer.fds)
        for result in answer.body["results"]:
            own = [next(fds) for _ in range(result["fds"])]
            try:
                results.append(_result(Received(result, own)))
            except AgentError as error:
                results.append(error)
        return results

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def fileno(self) -> int:
        """Return the socket's descriptor, -1 once closed: it becomes readable when the agent closes the connection."""
        return self._socket.fileno()

    @property
    def closed(self) -> bool:
        """Whether the connection has ended; a new one is needed."""
        return self._socket.fileno() < 0

    def close(self) -> None:
        """End the session: the agent frees what it holds."""
        self._socket.close()

    def _unavailable(self, cause: str) -> AgentUnavailable:
        return AgentUnavailable(
            f"the node agent at {self.path} is unavailable: {cause}",
            hint="Check that headrace-node runs on this node and that its socket is mounted",
        )


def _receive(connected: socket.socket) -> Received | None:
    try:
        return messages.receive(connected)
    except ConnectionResetError:  # reported once, before the packets that the agent sent until it closed
        return messages.receive(connected)


def _result(received: Received) -> Received:
    error = received.body.get("error")
    if isinstance(error, dict):
        messages.close_all(received.fds)
        raise from_report(str(error.get("reason")), str(error.get("message")), str(error.get("hint")))
    reply = received.body.get("reply")
    assert isinstance(reply, dict)
    return Received(reply, received.fds)


_OPEN: weakref.WeakSet[AgentConnection] = weakref.WeakSet()


def _close_in_child() -> None:
    for connection in list(_OPEN):
        connection.close()


os.register_at_fork(after_in_child=_close_in_child)
