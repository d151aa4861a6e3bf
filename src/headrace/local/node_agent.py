"""The node agent of the instance and the keeper of its objects: two processes, which local mode can do without.

They are started when the gateway runs, so that a start of the instance does not wait for them. The socket of a
namespace is in a directory of its own, as in a volume of a pod in a cluster.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Callable
from pathlib import Path

from headrace.agent.admin import SOCKET_NAME, AdminClient
from headrace.errors import HeadraceError
from headrace.local.home import InstanceHome
from headrace.local.supervised import Supervised
from headrace.local.variables import component_variables
from headrace.process import Process, spawn
from headrace.programs import find_program

log = logging.getLogger(__name__)

LOG = "node.log"
VOLUMES = "volumes"
"""Directory of the volumes in the agent's socket directory, each named after its namespace."""
READY_SECONDS = 10.0
"""It takes half a second, and longer on a laptop that is busy with a model."""
POLL_SECONDS = 0.02
RETRY_SECONDS = 1.0
GRACE_SECONDS = 5.0
MEMORY_SHARE = 2
"""Of the machine's memory, the share that objects may use: as a tmpfs by default. It is not reserved."""
POOL_BYTES = 128 << 20
"""Ready segments; an eighth of the store, the agent's own default, would be too much of a laptop's memory."""


class NodeAgent:
    """Runs the agent; `admit` gives it the namespaces that need a socket."""

    def __init__(self, home: InstanceHome) -> None:
        self._directory = home.node
        self._log = home.logs / LOG
        self._client = AdminClient(home.node / SOCKET_NAME)
        self._keeper = Supervised("keeper", lambda: self._spawn("keeper"))
        self._agent = Supervised("node agent", lambda: self._spawn("agent"))
        self._namespaces: asyncio.Queue[str] = asyncio.Queue()
        """Those without a socket yet. Unbounded: the local cluster bounds its namespaces."""

    @property
    def volumes(self) -> Path:
        """Directory with a volume for each namespace."""
        return self._directory / VOLUMES

    def admit(self, namespace: str) -> None:
        """Open the socket of a namespace as soon as the agent runs."""
        self._namespaces.put_nowait(namespace)

    async def run(self, on_fault: Callable[[str], None]) -> None:
        """Run until `stop`. If it cannot be started, report the cause once and return."""
        try:
            await self._keeper.start()
            await self._agent.start()
        except (HeadraceError, OSError) as error:
            on_fault(str(error))
            await self.stop()
            return
        async with asyncio.TaskGroup() as tasks:
            running = [tasks.create_task(self._keeper.run()), tasks.create_task(self._agent.run())]
            opening = tasks.create_task(self._open_volumes(on_fault))
            await asyncio.wait(running)
            opening.cancel()

    async def stop(self) -> None:
        """Stop both: what the agent holds ends with the instance."""
        await self._agent.stop(GRACE_SECONDS)
        await self._keeper.stop(GRACE_SECONDS)

    async def _open_volumes(self, on_fault: Callable[[str], None]) -> None:
        if not await self._is_ready():
            on_fault(f"it {'exited' if self._agent.ended.is_set() else 'is not ready'}; see its log: {self._log}")
            await self.stop()
            return
        while True:
            namespace = await self._namespaces.get()
            names = {"namespace": namespace, "pod": "local", "uid": namespace}
            try:
                await asyncio.to_thread(self._client.open_volume, namespace, **names)
            except HeadraceError as error:  # it is being restarted
                log.warning("no socket of the node agent for the namespace %s yet: %s", namespace, error)
                self._namespaces.put_nowait(namespace)
                await asyncio.sleep(RETRY_SECONDS)

    async def _is_ready(self) -> bool:
        """Wait until the agent can be used; False if it exits before, or takes too long."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(READY_SECONDS):
                while not self._agent.ended.is_set():
                    if await asyncio.to_thread(self._client.is_reachable):
                        return True
                    await asyncio.sleep(POLL_SECONDS)
        return False

    async def _spawn(self, part: str) -> Process:
        program = find_program("headrace-node", hint="Install it: pip install 'headrace[node]'")
        command = [program, part, "--socket-directory", str(self._directory)]
        if part == "agent":
            command += ["--keeper", *_store_options()]
        return spawn(command, component_variables(), self._log)


def _store_options() -> list[str]:
    """Return the agent's options for a store in which models keep their weights; all namespaces are one person's."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // MEMORY_SHARE
    return [
        *("--store-bytes", str(memory)),
        *("--tenant-bytes", str(memory)),
        *("--pool-bytes", str(min(POOL_BYTES, memory))),
    ]
