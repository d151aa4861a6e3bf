"""The descriptor bus in the agent: the verbs with which sessions join, and the kernel's map beside the router.

A session may create endpoints of its own tenant only, and they end with the session.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from headrace.agent.errors import InvalidMessage
from headrace.bus.client import INSERT, JOIN_TCP, JOIN_UNIX
from headrace.bus.errors import EbpfUnavailable, JoinRefused
from headrace.bus.frames import ROUTER, ErrorCode, Frame
from headrace.bus.ports import Port
from headrace.bus.router import Router
from headrace.bus.wire import Wire
from headrace_node.server import AgentServer, Reply, Session
from headrace_node.sockmap import EndpointCounts, Sockmap

ENDPOINTS_PER_SESSION = 64


@dataclass(frozen=True, slots=True)
class _Pending:
    """A TCP join whose socket is not inserted yet."""

    session: Session
    port: Port


class AgentBus:
    """Registers the verbs of the bus.

    Args:
        server: where sessions come from.
        router: the agent's router; the caller stops it.
        address: host and port at which pods of the node reach the router's TCP listener.
        sockmap: None if the agent may not use eBPF; the caller closes it.
        why_not: why `sockmap` is None.
    """

    def __init__(
        self, server: AgentServer, router: Router, address: tuple[str, int], sockmap: Sockmap | None, why_not: str = ""
    ) -> None:
        self.router, self.sockmap = router, sockmap
        self._server, self._address, self._why_not = server, address, why_not
        self._sessions: dict[Session, set[Port]] = {}
        self._held: dict[int, _Pending] = {}
        """Endpoints whose socket is to be inserted, by id."""
        server.verb(JOIN_UNIX, self._join_unix)
        server.verb(JOIN_TCP, self._join_tcp)
        server.verb(INSERT, self._insert)
        self._returned = sockmap and Wire(sockmap.returned, self._undelivered, lambda: None)

    def close(self) -> None:
        """Stop reading what the kernel returns."""
        if self._returned is not None:
            self._returned.close()

    def counts(self) -> Iterator[EndpointCounts]:
        """Yield what the kernel has counted for each endpoint with the transport `sockmap`."""
        if self.sockmap is not None:
            yield from self.sockmap.counts()

    async def _join_unix(self, session: Session, message: dict[str, Any], _: list[int]) -> Reply:
        self._check_room(session)
        port, theirs = self.router.join_unix(session.tenant, reserved=_number(message, "reserved"))
        self._own(session, port)
        return Reply(fds=(theirs.detach(),))

    async def _join_tcp(self, session: Session, message: dict[str, Any], _: list[int]) -> Reply:
        self._check_room(session)
        wants_sockmap = message.get("sockmap") is True
        if wants_sockmap and self.sockmap is None:
            raise EbpfUnavailable(f"the node agent has no eBPF: {self._why_not}", hint="Use the transport unix")

        def joined(port: Port) -> None:
            self._own(session, port)
            if wants_sockmap:
                port.held = True
                self._held[port.id] = _Pending(session, port)
                port.on_close.append(lambda: self._forget(port.id))

        token = self.router.expect(session.tenant, joined, reserved=_number(message, "reserved"))
        host, port = self._address
        return Reply({"host": host, "port": port, "token": token.hex()})

    async def _insert(self, session: Session, message: dict[str, Any], fds: list[int]) -> Reply:
        id_ = _number(message, "id")
        pending = self._held.get(id_)
        if pending is None or pending.session is not session or self.sockmap is None:
            raise JoinRefused(f"endpoint {id_:#010x} does not wait for its socket", hint="Join with the bus first")
        if len(fds) != 1:
            raise InvalidMessage(f"{INSERT} has {len(fds)} descriptors instead of one")
        port = pending.port
        assert port.wire is not None
        self.sockmap.insert(id_, session.tenant, fds[0], port.wire.socket)
        del self._held[id_]
        port.transport, port.deliver = "sockmap", self.sockmap.send
        self.router.release(port)
        return Reply()

    def _own(self, session: Session, port: Port) -> None:
        if session not in self._server.sessions:
            raise JoinRefused("the session that asked for the token has ended", hint="Keep it open while joining")
        ports = self._sessions.get(session)
        if ports is None:
            ports = self._sessions[session] = set()
            session.on_close.append(lambda: self._end(session))
        ports.add(port)
        port.on_close.append(lambda: ports.discard(port))

    def _end(self, session: Session) -> None:
        for port in list(self._sessions.pop(session, ())):
            self.router.close(port)

    def _forget(self, id_: int) -> None:
        self._held.pop(id_, None)
        if self.sockmap is not None:
            self.sockmap.remove(id_)

    def _check_room(self, session: Session) -> None:
        if len(self._sessions.get(session, ())) >= ENDPOINTS_PER_SESSION:
            raise JoinRefused(
                f"the session has {ENDPOINTS_PER_SESSION} endpoints", hint="Close endpoints that are not used"
            )

    def _undelivered(self, frame: Frame) -> None:
        """The kernel had no socket for a frame of the router: the endpoint has closed."""
        self.router.undeliverable(frame, ErrorCode.UNKNOWN)


def _number(message: dict[str, Any], field: str) -> int:
    value = message.get(field, ROUTER)
    if not isinstance(value, int) or isinstance(value, bool):
        raise InvalidMessage(f"{field} is not a whole number")
    return value
