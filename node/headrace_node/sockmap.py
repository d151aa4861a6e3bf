"""The kernel's part of the descriptor bus: which sockets the redirect program knows, and what it has counted.

Four maps (see `bpf/redirect.bpf.c`): `endpoints` id -> socket, `sources` sending socket -> id and tenant, `routes`
(tenant, destination) -> allowed, `counters` id -> counts. A closed socket leaves `endpoints` by itself; the other
entries are removed here. The manager keeps no copy of an endpoint's descriptor: with one, a dead endpoint's socket
would stay open, and frames to it would vanish instead of coming back.
"""

from __future__ import annotations

import contextlib
import os
import socket
import stat
import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from headrace.bus.errors import JoinRefused
from headrace.bus.frames import Frame
from headrace_node.bpf import bcc, elf
from headrace_node.bpf.syscalls import HASH, SOCKHASH, BpfMap, attach_sk_msg

NAT = "Hand over the socket that joined; use the transport unix where addresses between pods and agent are translated"
AGENT = 0
"""The id of the agent's own sending socket."""
_ID = struct.Struct("=I")
_ROUTE = struct.Struct("=II")
_SOURCE = struct.Struct("=II")
_FLOW = struct.Struct("=Q4s4sI4s")
_COUNTS = struct.Struct("=QQQQ")
_SOCKET = struct.Struct("=Q")
_SO_NETNS_COOKIE = 71
_COOKIE_BYTES = 8

Loader = Callable[[Mapping[str, BpfMap]], int]
"""Loads the redirect program with the maps of these names; returns its descriptor. Raises EbpfUnavailable."""
LOADERS: dict[str, Loader] = {"object": elf.load, "bcc": bcc.load}
"""`object`: the precompiled object; `bcc`: compiled at start by BCC, which needs clang and kernel headers."""


@dataclass(frozen=True, slots=True)
class EndpointCounts:
    """What the kernel has counted for one endpoint, in frames."""

    id: int
    redirected: int
    """Sent by it and delivered by the kernel."""
    passed: int
    """Sent by it and left to the agent."""
    forged: int
    """Of those passed: their source was not the endpoint."""
    received: int
    """Delivered to it by the kernel."""


class Sockmap:
    """The maps with the attached program; all of it ends with `close` or with the process.

    Args:
        load: one of LOADERS.
        entries: most endpoints.

    Raises:
        EbpfUnavailable: the kernel or a capability is missing.
    """

    def __init__(self, load: Loader = elf.load, *, entries: int = 16_384) -> None:
        self._maps: dict[str, BpfMap] = {}
        self._flows: dict[int, bytes] = {}
        """Key in `sources` of each endpoint."""
        self._routes: dict[int, bytes] = {}
        """Key in `routes` of each endpoint: its tenant may send to it."""
        self._tenants: dict[str, int] = {}
        self._program = -1
        try:
            sizes = {"sources": (_FLOW.size, _SOURCE.size), "routes": (_ROUTE.size, _ID.size)}
            self._maps["endpoints"] = BpfMap(SOCKHASH, "endpoints", _ID.size, _SOCKET.size, entries)
            for name, (key, value) in {**sizes, "counters": (_ID.size, _COUNTS.size)}.items():
                self._maps[name] = BpfMap(HASH, name, key, value, entries)
            self._program = load(self._maps)
            attach_sk_msg(self._program, self._maps["endpoints"])
            self._sender, self._returned = _loopback_pair()
            self._insert(AGENT, "", self._sender)
        except BaseException:
            self.close()
            raise

    @property
    def returned(self) -> socket.socket:
        """The socket out of which come the frames of `send` that the kernel could not deliver."""
        return self._returned

    def insert(self, id_: int, tenant: str, fd: int, agent_end: socket.socket) -> None:
        """Let the kernel deliver frames from and to an endpoint. The caller closes `fd` afterwards.

        Args:
            id_: the endpoint's id.
            tenant: frames from it reach endpoints of this tenant.
            fd: the endpoint's TCP connection to the agent, as the endpoint's process sees it.
            agent_end: the other end of that connection, to which the kernel passes what it cannot redirect.

        Raises:
            JoinRefused: the descriptor is not a connected IPv4 TCP socket to `agent_end`.
        """
        if not stat.S_ISSOCK(os.fstat(fd).st_mode):
            raise JoinRefused("the descriptor is not a socket", hint=NAT)
        with socket.socket(fileno=os.dup(fd)) as connected:
            try:
                is_tcp = connected.family == socket.AF_INET and connected.type & ~_FLAGS == socket.SOCK_STREAM
                if not is_tcp or not _connects(connected, agent_end):
                    raise JoinRefused(
                        "the descriptor is not the endpoint's TCP connection over IPv4 to the agent", hint=NAT
                    )
                self._insert(id_, tenant, connected)
            except OSError as error:
                self.remove(id_)
                raise JoinRefused(f"the kernel refuses the socket: {error.strerror}") from error
        self._routes[id_] = _ROUTE.pack(self._number(tenant), id_)
        self._maps["routes"].update(self._routes[id_], _ID.pack(1))

    def remove(self, id_: int) -> None:
        """Remove every entry of an endpoint. Frames to it pass to the agent from now on."""
        self._maps["endpoints"].delete(_ID.pack(id_))
        self._maps["counters"].delete(_ID.pack(id_))
        if id_ in self._flows:
            self._maps["sources"].delete(self._flows.pop(id_))
        if id_ in self._routes:
            self._maps["routes"].delete(self._routes.pop(id_))

    def send(self, frame: Frame) -> bool:
        """Deliver a frame as the agent, whatever its source; if the kernel cannot, it comes out of `returned`."""
        try:
            return self._sender.send(frame.encode()) > 0
        except BlockingIOError:
            return False

    def counts(self) -> Iterator[EndpointCounts]:
        """Yield the counts of every endpoint, and those of the agent's own socket (`AGENT`)."""
        for key in self._maps["counters"].keys():  # noqa: SIM118 - a map of the kernel is no dict
            value = self._maps["counters"].lookup(key)
            if value is not None:
                yield EndpointCounts(_ID.unpack(key)[0], *_COUNTS.unpack(value))

    def close(self) -> None:
        """Detach the program and free the maps; sockets that were inserted become plain TCP."""
        for each in ("_sender", "_returned"):
            with contextlib.suppress(AttributeError):
                getattr(self, each).close()
        for bpf_map in self._maps.values():
            bpf_map.close()
        if self._program >= 0:
            os.close(self._program)
            self._program = -1

    def _insert(self, id_: int, tenant: str, connected: socket.socket) -> None:
        flow = _flow(connected)
        self._maps["counters"].update(_ID.pack(id_), bytes(_COUNTS.size))
        self._maps["sources"].update(flow, _SOURCE.pack(id_, self._number(tenant)))
        self._flows[id_] = flow
        self._maps["endpoints"].update(_ID.pack(id_), _SOCKET.pack(connected.fileno()))

    def _number(self, tenant: str) -> int:
        return self._tenants.setdefault(tenant, len(self._tenants))


_FLAGS = socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC


def _connects(one: socket.socket, other: socket.socket) -> bool:
    """Whether these are the two ends of a connection, without address translation between them."""
    return bool(one.getpeername() == other.getsockname() and one.getsockname() == other.getpeername())


def _flow(connected: socket.socket) -> bytes:
    """Return what identifies a sending socket in the program, in the byte orders of struct sk_msg_md."""
    cookie = connected.getsockopt(socket.SOL_SOCKET, _SO_NETNS_COOKIE, _COOKIE_BYTES)
    (local, local_port), (remote, remote_port) = connected.getsockname(), connected.getpeername()
    return _FLOW.pack(
        int.from_bytes(cookie, "little"),
        socket.inet_aton(local),
        socket.inet_aton(remote),
        local_port,
        remote_port.to_bytes(4, "big"),
    )


def _loopback_pair() -> tuple[socket.socket, socket.socket]:
    with socket.create_server(("127.0.0.1", 0), backlog=1) as listener:
        one = socket.create_connection(listener.getsockname())
        while True:
            two, address = listener.accept()
            if address == one.getsockname():
                break
            two.close()
    one.setblocking(False)
    one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return one, two
