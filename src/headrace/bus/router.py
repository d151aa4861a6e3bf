"""The user-space switch of the bus: assigns endpoint ids, checks sources and routes, forwards frames.

The node agent runs one. It forwards what the kernel or a direct socket does not: frames of the transport `tcp`, frames
between transports, frames to other nodes, and frames to endpoints that are scaled to zero, which wait in a bounded
queue while the activator starts the process. Everything is called on one event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import socket
import time
from collections import Counter, deque
from collections.abc import Callable

from headrace.bus.errors import JoinRefused
from headrace.bus.frames import DATA_KINDS, ROUTER, ErrorCode, Frame, Kind
from headrace.bus.ids import endpoint_ids
from headrace.bus.ports import Port, Remote, Token
from headrace.bus.wire import Wire

log = logging.getLogger(__name__)

WINDOW = 32
"""Default number of credits of a pair."""
WINDOWS = range(2, 65)
"""Above, a window of frames and its acknowledgements may not fit into the send buffer of a Unix socket (about 270)."""
ENDPOINTS = 16_384
"""Most endpoints and reserved ids of a router."""
ENDPOINTS_PER_TENANT = 2048
"""Likewise of a tenant, and of its tokens that no connection has presented."""
HELLO_SECONDS = 5.0
"""A TCP connection that has not presented its token by then is closed."""
TOKEN_SECONDS = 30.0
"""A token that no connection has presented by then expires."""
ACTIVATION_FRAMES = 1024
"""Frames that wait for one endpoint at zero; further ones are refused with the error FULL."""
_DIRECT_PATHS = 1024
"""Direct sockets of one endpoint; the router forwards to its further peers."""
_DIRECT_PATHS_OF_TENANT = 8192
"""Likewise of a tenant, and four times as many of all: the router has them open while endpoints do not receive them."""
_BACKLOG = 128


class Router:
    """See the module.

    Args:
        activate: called with the id of a reserved endpoint when its first frame arrives; must not block.
        window: credits of a pair, one of WINDOWS.
    """

    def __init__(self, *, activate: Callable[[int], None] | None = None, window: int = WINDOW) -> None:
        assert window in WINDOWS
        self.window = window
        self.errors: Counter[ErrorCode] = Counter()
        """Frames that were not delivered, by reason."""
        self.forwarded: Counter[str] = Counter()
        """Frames forwarded in user space: to a transport, `activator` or `link`."""
        self.ports: dict[int, Port] = {}
        self._activate = activate
        self._ids = endpoint_ids(secrets.token_bytes(16))
        self._remotes: dict[int, Remote] = {}
        self._links: dict[str, Wire] = {}
        self._tokens: dict[bytes, Token] = {}
        self._link_tokens: dict[bytes, str] = {}
        self._new: dict[Wire, None] = {}
        """Accepted connections that have not presented their token, oldest first."""
        self._per_tenant: Counter[str] = Counter()
        self._direct: Counter[str] = Counter()
        """Ends of direct sockets, by tenant."""
        self._listeners: list[socket.socket] = []

    # Joining

    def reserve(self, tenant: str) -> int:
        """Return the id of an endpoint that is scaled to zero: its first frame calls `activate`, a join takes the id.

        Raises JoinRefused.
        """
        return self._assign(tenant).id

    def join_unix(self, tenant: str, *, reserved: int = ROUTER) -> tuple[Port, socket.socket]:
        """Create an endpoint with the transport `unix`; return its port and the socket for its `UnixTransport`.

        Raises JoinRefused.
        """
        port = self._port(tenant, reserved)
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._open(port, "unix", Wire(ours, lambda frame: self._from_port(port, frame), lambda: self.close(port)))
        return port, theirs

    def expect(self, tenant: str, joined: Callable[[Port], None] = lambda _: None, *, reserved: int = ROUTER) -> bytes:
        """Return a token with which one TCP connection may join as an endpoint of `tenant`; `joined` gets its port.

        `joined` may raise JoinRefused. Raises JoinRefused if the tenant has too many tokens.
        """
        now = time.monotonic()
        self._tokens = {token: entry for token, entry in self._tokens.items() if entry.expires > now}
        if sum(entry.tenant == tenant for entry in self._tokens.values()) >= ENDPOINTS_PER_TENANT:
            raise JoinRefused(f"{tenant} has too many tokens", hint="Connect with those that it has")
        token = secrets.token_bytes(16)
        self._tokens[token] = Token(tenant, joined, reserved, now + TOKEN_SECONDS)
        return token

    def listen(self, host: str, port: int = 0) -> tuple[str, int]:
        """Accept TCP connections of endpoints and of other routers; return the address. Raises OSError."""
        listener = socket.create_server((host, port), backlog=_BACKLOG)
        listener.setblocking(False)
        self._listeners.append(listener)
        asyncio.get_running_loop().add_reader(listener, self._accept, listener)
        host, port = listener.getsockname()
        return host, port

    def release(self, port: Port) -> None:
        """Deliver what waits for an endpoint, and from now on everything at once."""
        port.held = False
        waiting, port.waiting = port.waiting, deque()
        for frame in waiting:
            if not self._deliver(port, frame):
                self.undeliverable(frame, ErrorCode.FULL)

    def close(self, port: Port) -> None:
        """Remove an endpoint; its id is never used again. Frames to it get UNKNOWN."""
        if self.ports.pop(port.id, None) is None:
            return
        self._per_tenant[port.tenant] -= 1
        if port.wire is not None:
            port.wire.close()
        for peer in port.direct:
            self.ports[peer].direct.discard(port.id)
        self._direct[port.tenant] -= 2 * len(port.direct)
        for hook in port.on_close:
            hook()
        for frame in port.waiting:
            self.undeliverable(frame, ErrorCode.UNKNOWN)

    def stop(self) -> None:
        """Close every connection."""
        loop = asyncio.get_running_loop()
        while self._listeners:
            listener = self._listeners.pop()
            loop.remove_reader(listener)
            listener.close()
        for port in list(self.ports.values()):
            self.close(port)
        for wire in [*self._new, *self._links.values()]:
            wire.close()

    # Routes

    def allowed(self, tenant: str, dst: int) -> bool:
        """Whether endpoints of the tenant may send to the endpoint, here or on another node."""
        owner = self.ports.get(dst) or self._remotes.get(dst)
        return owner is not None and owner.tenant == tenant

    def expect_link(self, name: str) -> bytes:
        """Return the token with which the router of another node may connect; links of that name replace each other."""
        token = secrets.token_bytes(16)
        self._link_tokens[token] = name
        return token

    async def link(self, name: str, address: tuple[str, int], token: bytes) -> None:
        """Connect to the router of another node, which issued the token. Raises OSError."""
        connected = socket.socket()
        connected.setblocking(False)
        try:
            await asyncio.get_running_loop().sock_connect(connected, address)
        except OSError:
            connected.close()
            raise
        self._add_link(name, connected).send(Frame(Kind.HELLO, ROUTER, key=token))

    def add_remote(self, id_: int, tenant: str, link: str) -> None:
        """Route frames for the id of another node's router over a link.

        Raises JoinRefused: this router has an endpoint with the id.
        """
        if id_ in self.ports:
            raise JoinRefused(f"endpoint {id_:#010x} of {link} is also one of this node", hint="Join it again")
        self._remotes[id_] = Remote(tenant, link)

    def remove_remote(self, id_: int) -> None:
        """Forget an endpoint of another node."""
        self._remotes.pop(id_, None)

    # Frames

    def undeliverable(self, frame: Frame, code: ErrorCode) -> None:
        """Report to the frame's source that it was not delivered, and count it."""
        self.errors[code] += 1
        if frame.kind in DATA_KINDS and frame.src in self.ports:
            self._deliver(self.ports[frame.src], _error(frame, code))
        elif frame.kind in DATA_KINDS and frame.src in self._remotes:
            self._forward(self._remotes[frame.src], _error(frame, code))

    def _from_port(self, port: Port, frame: Frame) -> None:
        if frame.src != port.id:
            self.errors[ErrorCode.FORGED] += 1
            self._deliver(port, Frame(Kind.ERROR, port.id, frame.dst, frame.seq, offset=ErrorCode.FORGED))
        elif frame.dst == ROUTER:
            if frame.kind is Kind.ROUTE:
                self._hand_out(port, frame.offset)
        else:
            self._route(port.tenant, frame)

    def _from_link(self, name: str, frame: Frame) -> None:
        source = self._remotes.get(frame.src)
        if source is None or source.link != name:
            self.errors[ErrorCode.FORGED] += 1
        elif frame.dst in self._remotes:
            self.errors[ErrorCode.UNKNOWN] += 1  # routers form one hop: nothing is relayed between links
        else:
            self._route(source.tenant, frame)

    def _route(self, tenant: str, frame: Frame) -> None:
        port, remote = self.ports.get(frame.dst), self._remotes.get(frame.dst)
        if port is None and remote is None:
            self.undeliverable(frame, ErrorCode.UNKNOWN)
        elif not self.allowed(tenant, frame.dst):
            self.undeliverable(frame, ErrorCode.FORBIDDEN)
        elif not (self._deliver(port, frame) if port else remote is not None and self._forward(remote, frame)):
            self.undeliverable(frame, ErrorCode.FULL)

    def _deliver(self, port: Port, frame: Frame) -> bool:
        if port.wire is None or port.held:
            return self._queue(port, frame)
        self.forwarded[port.transport] += 1
        return port.deliver(frame) if port.deliver else port.wire.send(frame)

    def _queue(self, port: Port, frame: Frame) -> bool:
        if len(port.waiting) >= ACTIVATION_FRAMES:
            return False
        port.waiting.append(frame)
        self.forwarded["activator"] += 1
        if port.wire is None and len(port.waiting) == 1 and self._activate is not None:
            self._activate(port.id)
        return True

    def _forward(self, remote: Remote, frame: Frame) -> bool:
        self.forwarded["link"] += 1
        wire = self._links.get(remote.link)
        return wire is not None and wire.send(frame)

    def _hand_out(self, port: Port, peer: int) -> None:
        """Answer ROUTE: a socket pair for two Unix endpoints, or nothing: the router forwards."""
        other = self.ports.get(peer)
        assert port.wire is not None
        if peer in port.direct:
            return  # the other one has asked first: the socket is on its way
        if other is None or other.transport != "unix" or other.wire is None or not self._may_pair(port, other):
            port.wire.send(_path(port.id, peer))
            return
        one, two = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        if other.wire.send(_path(peer, port.id), two.detach()):
            port.direct.add(peer)
            other.direct.add(port.id)
            self._direct[port.tenant] += 2
            port.wire.send(_path(port.id, peer), one.detach())
        else:
            one.close()
            port.wire.send(_path(port.id, peer))

    def _may_pair(self, port: Port, other: Port) -> bool:
        return (
            port is not other
            and port.transport == "unix"
            and port.tenant == other.tenant
            and self._direct[port.tenant] < _DIRECT_PATHS_OF_TENANT
            and self._direct.total() < 4 * _DIRECT_PATHS_OF_TENANT
            and len(port.direct) < _DIRECT_PATHS
            and len(other.direct) < _DIRECT_PATHS
        )

    # Connections

    def _accept(self, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            connected, _ = listener.accept()
            if len(self._new) >= _BACKLOG:
                self._expire(next(iter(self._new)))  # an honest client presents its token at once
            connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            wire = Wire(connected, lambda frame: self._greet(wire, frame), lambda: self._new.pop(wire, None))
            self._new[wire] = None
            asyncio.get_running_loop().call_later(HELLO_SECONDS, self._expire, wire)

    def _expire(self, wire: Wire) -> None:
        if wire in self._new:
            del self._new[wire]
            wire.close()

    def _greet(self, wire: Wire, frame: Frame) -> None:
        self._new.pop(wire, None)
        token = self._tokens.pop(frame.key, None)
        if frame.kind is Kind.HELLO and token is not None and token.expires > time.monotonic():
            self._join(wire, token)
        elif frame.kind is Kind.HELLO and frame.key in self._link_tokens:
            self._replace(wire, self._link_tokens[frame.key])
        else:
            log.warning("a TCP connection to the bus had no valid token")
            wire.close()

    def _join(self, wire: Wire, token: Token) -> None:
        port = None
        try:
            port = self._port(token.tenant, token.reserved)
            token.joined(port)
        except JoinRefused as error:
            log.warning("%s", error)
            if port is not None:
                self.close(port)
            wire.close()
            return
        wire.rebind(lambda frame: self._from_port(port, frame), lambda: self.close(port))
        self._open(port, "tcp", wire)

    def _open(self, port: Port, transport: str, wire: Wire) -> None:
        port.transport, port.wire = transport, wire
        wire.send(Frame(Kind.WELCOME, port.id, value=self.window))
        if not port.held:
            self.release(port)

    def _add_link(self, name: str, connected: socket.socket) -> Wire:
        return self._replace(Wire(connected, lambda _: None, lambda: None), name)

    def _replace(self, wire: Wire, name: str) -> Wire:
        wire.rebind(lambda frame: self._from_link(name, frame), lambda: self._unlink(name, wire))
        former, self._links[name] = self._links.get(name), wire
        if former is not None:
            former.close()
        return wire

    def _unlink(self, name: str, wire: Wire) -> None:
        if self._links.get(name) is wire:
            del self._links[name]

    def _port(self, tenant: str, reserved: int) -> Port:
        if reserved == ROUTER:
            return self._assign(tenant)
        port = self.ports.get(reserved)
        if port is None or port.tenant != tenant or port.wire is not None:
            raise JoinRefused(f"endpoint {reserved:#010x} is not reserved for {tenant}", hint="Reserve an id first")
        return port

    def _assign(self, tenant: str) -> Port:
        if len(self.ports) >= ENDPOINTS or self._per_tenant[tenant] >= ENDPOINTS_PER_TENANT:
            raise JoinRefused(
                f"the bus has {ENDPOINTS:,} endpoints in all, or {ENDPOINTS_PER_TENANT:,} of {tenant}",
                hint="Close endpoints that are not used",
            )
        self._per_tenant[tenant] += 1
        id_ = next(each for each in self._ids if each not in self._remotes)
        port = self.ports[id_] = Port(id_, tenant, "none")
        return port


def _error(frame: Frame, code: ErrorCode) -> Frame:
    return Frame(Kind.ERROR, frame.src, frame.dst, frame.seq, offset=code)


def _path(dst: int, peer: int) -> Frame:
    return Frame(Kind.ROUTE, dst, ROUTER, offset=peer)
