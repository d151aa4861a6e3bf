"""How a process finds the best path to a receiver."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Literal

from headrace.agent.errors import AgentUnavailable
from headrace.bus.frames import ROUTER
from headrace.environment import AGENT_SOCKET
from headrace.payloads.address import Address, this_node
from headrace.payloads.sender import Sender
from headrace.payloads.shared import SharedSender
from headrace.payloads.stream import StreamSender
from headrace.store.keys import ObjectClass

log = logging.getLogger(__name__)

BUFFERS = 4


def connect(
    address: str,
    agent: Path | None,
    *,
    transport: Literal["unix", "sockmap", "tcp"] = "unix",
    object_class: ObjectClass = ObjectClass.UPDATES,
    buffers: int = BUFFERS,
) -> Sender:
    """Return a sender to a receiver: by shared memory if both have the agent of this node, else by TCP.

    Args:
        address: `Receiver.address`, as text.
        agent: the agent's socket (the variable HEADRACE_AGENT_SOCKET), if this process has one.
        transport: of the descriptor bus.
        object_class: whose quota in the store the buffers use.
        buffers: payloads that the receiver may hold before `prepare` waits; each keeps its memory until `close`.

    Raises:
        InvalidAddress: the text is not an address.
        BusClosed: nothing listens at the address.
        AgentError: the agent refuses the session; if it is unavailable, the path is TCP.
    """
    to = Address.parse(address)
    why_not = _why_not(to, agent)
    if agent is not None and not why_not:
        try:
            return SharedSender(agent, to.endpoint, transport, object_class, buffers)
        except AgentUnavailable as error:
            why_not = error.message
    log.info("payloads travel over TCP to %s:%d: %s", to.host, to.port, why_not)
    return StreamSender(to, why_not)


def _why_not(to: Address, agent: Path | None) -> str:
    """Return why shared memory is impossible, or an empty text."""
    if agent is None:
        return f"this process has no node agent ({AGENT_SOCKET} is not set)"
    if to.endpoint == ROUTER:
        return "the receiver has no node agent"
    if to.node != this_node():
        return "the receiver is on another node"
    return ""
