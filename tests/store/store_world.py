"""A real object store: in a thread of the test, or as an agent process that can be killed."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

from agent.agent_world import ServerThread
from typing_extensions import override

from headrace.agent.connection import AgentConnection
from headrace.agent.errors import AgentUnavailable
from headrace.store.client import Store
from headrace.store.keys import ObjectClass
from headrace_node.server import AgentServer
from headrace_node.settings import KEEPER_SOCKET
from headrace_node.store import memory
from headrace_node.store.accounts import Limits
from headrace_node.store.keeping import NO_KEEPER, Keeper, Keeping
from headrace_node.store.memory import PageKind
from headrace_node.store.objects import ObjectStore, Stored
from headrace_node.store.verbs import StoreVerbs

PAGE = 4096
MEGABYTE = 1 << 20
ROOMY = Limits(total_bytes=64 * MEGABYTE, tenant_bytes=48 * MEGABYTE)


class StoreThread(ServerThread):
    """An object store in a thread, with a socket for each of two tenants."""

    def __init__(self, directory: Path, limits: Limits = ROOMY, keeper: Path | None = None) -> None:
        super().__init__()
        self.a, self.b = directory / "a.sock", directory / "b.sock"
        self.limits, self.keeper = limits, keeper
        self.store: ObjectStore

    def open(self, *, other: bool = False) -> Store:
        return Store(self.b if other else self.a)

    def usage(self) -> dict[tuple[str, ObjectClass], int]:
        """Return the bytes by tenant and class."""
        self.do(self.store.sweep)
        return self.do(lambda: dict(self.store.accounts.bytes))

    def stored(self) -> list[Stored]:
        return self.do(lambda: list(self.store.objects()))

    async def refilled(self) -> None:
        """Wait for the pool."""
        await asyncio.gather(*self.store._refills)

    @override
    async def _main(self) -> None:
        self.loop, self._end = asyncio.get_running_loop(), asyncio.Event()
        keeping = NO_KEEPER if self.keeper is None else Keeper(self.keeper)
        with contextlib.ExitStack() as stack:
            if isinstance(keeping, Keeper):
                stack.callback(keeping.close)
            await self._serve(keeping)

    async def _serve(self, keeping: Keeping) -> None:
        async with ObjectStore(self.limits, PageKind(), keeping) as self.store, self.server:
            StoreVerbs(self.store).register(self.server)
            self.server.listen(self.a, "team-a", "pod-a")
            self.server.listen(self.b, "team-b", "pod-b")
            self._ready.set_result(None)
            await self._end.wait()


class Program:
    """A process with our packages and the tests on its path; killed on leaving the context."""

    def __init__(self, *arguments: object) -> None:
        path = os.pathsep.join([*sys.path, str(Path(__file__).parents[1])])
        command = [sys.executable, *map(str, arguments)]
        self.popen = subprocess.Popen(
            command, env={**os.environ, "PYTHONPATH": path}, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()

    def line(self) -> str:
        """Read one line of its output."""
        assert self.popen.stdout is not None
        return self.popen.stdout.readline().strip()

    def kill(self) -> None:
        """SIGKILL, as a crash."""
        if self.popen.poll() is None:
            self.popen.send_signal(signal.SIGKILL)
        self.popen.wait()
        for stream in (self.popen.stdin, self.popen.stdout):
            if stream is not None:
                stream.close()


@contextlib.contextmanager
def keeper_process(path: Path) -> Iterator[Program]:
    """Run a keeper, listening."""
    assert path.name == KEEPER_SOCKET
    with Program("-m", "headrace_node.main", "keeper", "--socket-directory", path.parent) as program:
        wait_for_agent(path, program)
        yield program


@contextlib.contextmanager
def agent_process(path: Path, keeper: Path | None = None, limits: Limits = ROOMY) -> Iterator[Program]:
    """Run an agent for tenant `team-a`, listening."""
    total, tenant = limits.total_bytes, limits.tenant_bytes
    with Program(__file__, path, total, tenant, *([] if keeper is None else ["--keeper", keeper])) as program:
        assert program.line() == "ready"
        yield program


def wait_for_agent(path: Path, program: Program) -> None:
    """Connect until it succeeds."""
    while program.popen.poll() is None:
        with contextlib.suppress(AgentUnavailable), AgentConnection(path):
            return
    raise AssertionError("the process exited")


def descriptors() -> int:
    """Return how many descriptors this process has open, without those of garbage."""
    gc.collect()
    return len(list(Path("/proc/self/fd").iterdir()))


async def _serve(path: Path, limits: Limits, keeper: Path | None) -> None:
    keeping = NO_KEEPER if keeper is None else Keeper(keeper)
    memory.check_kernel()
    async with ObjectStore(limits, PageKind(), keeping) as store, AgentServer() as server:
        StoreVerbs(store).register(server)
        server.listen(path, "team-a", "pod-a")
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        await asyncio.Event().wait()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("path", type=Path)
    parser.add_argument("total", type=int)
    parser.add_argument("tenant", type=int)
    parser.add_argument("--keeper", type=Path)
    given = parser.parse_args()
    asyncio.run(_serve(given.path, Limits(given.total, given.tenant), given.keeper))
