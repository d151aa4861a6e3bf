"""A node whose agent has store and bus, in a thread of the test."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from agent.agent_world import ServerThread
from bus.bus_world import Name, open_sockmap
from store.store_world import MEGABYTE

from headrace.bus.router import Router
from headrace_node.bus import AgentBus
from headrace_node.server import AgentServer
from headrace_node.store.accounts import Limits
from headrace_node.store.memory import PageKind
from headrace_node.store.objects import ObjectStore
from headrace_node.store.verbs import StoreVerbs


class Node:
    """The parts of the agent; `socket` is that of the tenant `a`."""

    def __init__(self, folder: Path, *, ebpf: bool = False) -> None:
        self._sockmap = open_sockmap() if ebpf else None
        self.folder = folder
        self.store: ObjectStore
        self.router: Router

    def prepare(self, server: AgentServer) -> None:
        """Register the verbs, in the thread of the server."""
        self.store = ObjectStore(Limits(64 * MEGABYTE, 48 * MEGABYTE), PageKind())
        self.router = Router()
        AgentBus(server, self.router, self.router.listen("127.0.0.1"), self._sockmap, "test")
        StoreVerbs(self.store).register(server)


@contextlib.contextmanager
def node(folder: Path, transport: Name = "unix") -> Iterator[tuple[Node, Path]]:
    """Run a node; yield it with the agent's socket."""
    world = Node(folder, ebpf=transport == "sockmap")
    with ServerThread(world.prepare) as thread:
        yield world, thread.listen(folder / "a.sock", "a")
        thread.do(world.router.stop)
