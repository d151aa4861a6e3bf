"""A real agent server in a thread of the test."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from headrace_node.server import AgentServer

T = TypeVar("T")


class ServerThread:
    """Runs an `AgentServer` in its own event loop; leaving the context closes it."""

    def __init__(self, prepare: Callable[[AgentServer], None] = lambda _: None) -> None:
        self._prepare = prepare
        self._ready: Future[None] = Future()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._main()), daemon=True)
        self.server = AgentServer()
        self.loop: asyncio.AbstractEventLoop
        self._end: asyncio.Event

    def __enter__(self) -> Self:
        self._thread.start()
        self._ready.result(10)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.loop.call_soon_threadsafe(self._end.set)
        self._thread.join(10)
        assert not self._thread.is_alive()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine in the server's loop."""
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(30)

    def do(self, work: Callable[[], T]) -> T:
        """Call a function in the server's loop."""

        async def call() -> T:
            return work()

        return self.run(call())

    def listen(self, path: Path, tenant: str = "default", label: str = "test") -> Path:
        self.do(lambda: self.server.listen(path, tenant, label))
        return path

    async def _main(self) -> None:
        self.loop, self._end = asyncio.get_running_loop(), asyncio.Event()
        async with self.server:
            self._prepare(self.server)
            self._ready.set_result(None)
            await self._end.wait()
