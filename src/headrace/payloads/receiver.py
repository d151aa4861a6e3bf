"""The receiving side of payloads."""

from __future__ import annotations

import logging
import select
import time
from pathlib import Path
from typing import Literal, Self

from headrace.agent.errors import AgentUnavailable
from headrace.bus.frames import ROUTER
from headrace.environment import AGENT_SOCKET
from headrace.payloads.address import Address, this_node
from headrace.payloads.payload import Payload, PayloadCounts
from headrace.payloads.shared import SharedInbox
from headrace.payloads.stream import StreamInbox

log = logging.getLogger(__name__)

MAX_BYTES = 4 << 30


class Receiver:
    """Takes payloads of any number of senders. Not thread-safe: one thread owns it.

    An event loop may watch `fileno()`, and calls `receive(0)` until it returns None when the descriptor is readable.

    Args:
        agent: the agent's socket (the variable HEADRACE_AGENT_SOCKET), if this process has one.
        host: where it listens for senders of other nodes and for those without an agent, e.g. the pod's address.
        port: likewise; 0 for any free one.
        transport: of the descriptor bus.
        max_bytes: largest payload; a sender of a larger one is disconnected, or its frame refused. Over TCP, each
            connected sender can make the receiver use this much memory.

    Raises:
        AgentError: the agent refuses the session; if it is unavailable, payloads come over TCP.
        OSError: the port is in use.
    """

    def __init__(
        self,
        agent: Path | None,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        transport: Literal["unix", "sockmap", "tcp"] = "unix",
        max_bytes: int = MAX_BYTES,
    ) -> None:
        self.counts = PayloadCounts()
        self.why_not = "" if agent else f"this process has no node agent ({AGENT_SOCKET} is not set)"
        """Why payloads do not come through the store; empty if they can."""
        self._shared: SharedInbox | None = None
        if agent is not None:
            try:
                self._shared = SharedInbox(agent, transport, self.counts, max_bytes)
            except AgentUnavailable as error:
                self.why_not = error.message
                log.info("payloads come over TCP: %s", error)
        try:
            self._stream = StreamInbox(host, port, self.counts, max_bytes)
        except BaseException:
            if self._shared is not None:
                self._shared.close()
            raise
        node, endpoint = (this_node(), self._shared.endpoint.id) if self._shared else ("", ROUTER)
        self.address = str(Address(host, self._stream.port, self._stream.token, node, endpoint))
        """For `connect`. A secret: with it, any process can send."""
        self._inboxes: list[SharedInbox | StreamInbox] = [self._stream]
        self._epoll = select.epoll()
        self._epoll.register(self._stream.fileno(), select.EPOLLIN)
        if self._shared is not None:
            self._inboxes.append(self._shared)
            self._epoll.register(self._shared.endpoint.fileno(), select.EPOLLIN)

    def receive(self, timeout: float | None = None) -> Payload | None:
        """Take the next payload; None if there is none within `timeout` seconds (None: no limit).

        Raises BusClosed: the agent has ended, so a new receiver is needed, with a new address.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            for inbox in self._inboxes:
                payload = inbox.take()
                if payload is not None:
                    self._inboxes.reverse()  # so that no path keeps the other waiting
                    return payload
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                return None
            self._epoll.poll(self._stream.soon(left))

    def fileno(self) -> int:
        """Return a descriptor that is readable when payloads may have arrived."""
        return self._epoll.fileno()

    def close(self) -> None:
        """Refuse further payloads. Those that are held stay readable if they came through the store."""
        self._epoll.close()
        self._stream.close()
        if self._shared is not None:
            self._shared.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
