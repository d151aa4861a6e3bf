"""A real agent with the bus in a thread, and endpoints that join it over each transport."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Literal, Self, TypeVar

import pytest
from agent.agent_world import ServerThread

from headrace.agent.connection import AgentConnection
from headrace.bus.client import join
from headrace.bus.endpoint import Endpoint
from headrace.bus.errors import EbpfUnavailable
from headrace.bus.frames import ROUTER
from headrace.bus.router import Router
from headrace_node.bus import AgentBus
from headrace_node.server import AgentServer
from headrace_node.sockmap import LOADERS, Loader, Sockmap

T = TypeVar("T")
Name = Literal["unix", "sockmap", "tcp"]
TRANSPORTS: tuple[Name, ...] = ("unix", "sockmap", "tcp")
NO_EBPF = "no eBPF"
SECONDS = 10.0


def open_sockmap(load: Loader = LOADERS["object"]) -> Sockmap:
    """Skip the test where the kernel or the capability is missing."""
    try:
        return Sockmap(load)
    except EbpfUnavailable:
        pytest.skip(NO_EBPF)


class BusWorld:
    """One node: an agent with a router, and one session per tenant."""

    def __init__(self, folder: Path, sockmap: Sockmap | None, *, host: str = "127.0.0.1", window: int = 8) -> None:
        self.sockmap = sockmap
        self.activated: list[int] = []
        self._host, self._window, self._folder = host, window, folder
        self._stack = contextlib.ExitStack()
        self._connections: dict[str, AgentConnection] = {}
        self.router: Router
        self.bus: AgentBus
        self.address: tuple[str, int]

    def __enter__(self) -> Self:
        self.thread = self._stack.enter_context(ServerThread(self._prepare))
        self._stack.callback(self.do, self._stop)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def do(self, work: Callable[[], T]) -> T:
        return self.thread.do(work)

    def connection(self, tenant: str = "a") -> AgentConnection:
        if tenant not in self._connections:
            path = self.thread.listen(self._folder / f"{tenant}.sock", tenant)
            self._connections[tenant] = AgentConnection(path)
            self._stack.callback(self._connections[tenant].close)
        return self._connections[tenant]

    def join(self, transport: Name, tenant: str = "a", *, reserved: int = ROUTER) -> Endpoint:
        endpoint = join(self.connection(tenant), transport, reserved=reserved)
        self._stack.callback(endpoint.close)
        return endpoint

    def await_end(self, id_: int) -> None:
        """Wait until the router has handled the end of an endpoint's connection."""
        deadline = time.monotonic() + SECONDS
        while self.do(lambda: id_ in self.router.ports):
            assert time.monotonic() < deadline

    def _prepare(self, server: AgentServer) -> None:
        self.router = Router(activate=self.activated.append, window=self._window)
        self.address = self.router.listen(self._host)
        self.bus = AgentBus(server, self.router, self.address, self.sockmap, "test")

    def _stop(self) -> None:
        self.router.stop()
        if self.sockmap is not None:
            self.bus.close()
            self.sockmap.close()


@contextlib.contextmanager
def node(folder: Path, transport: Name = "sockmap") -> Iterator[BusWorld]:
    """A node for endpoints of one transport."""
    with BusWorld(folder, open_sockmap() if transport == "sockmap" else None) as world:
        yield world
