"""The keeper: a process that holds the descriptors of sealed objects, so that they survive the agent.

It maps nothing and reads nothing of them. The agent hands over an object after it was sealed and verified, and has it
dropped before it frees the object itself, so whatever the keeper holds is complete. Without a keeper, objects end with
the agent. It ends at SIGTERM, and with it what it holds.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from headrace.agent.messages import MESSAGE_FDS
from headrace_node.server import AgentServer, Reply, Session
from headrace_node.store.memory import descriptor_limit


@dataclass(frozen=True, slots=True)
class Entry:
    """One kept descriptor."""

    number: int
    """Grows in the order of arrival."""
    record: dict[str, Any]
    fd: int


class Kept:
    """The entries by name, and the verbs that change them."""

    def __init__(self) -> None:
        self._entries: dict[str, Entry] = {}
        self._numbers = itertools.count(1)

    async def keep(self, _: Session, message: dict[str, Any], fds: list[int]) -> Reply:
        """Hold `fds[0]` with `record` as `name`, instead of what had the name before."""
        self._drop(message["name"])
        self._entries[message["name"]] = Entry(next(self._numbers), message["record"], fds.pop(0))
        return Reply()

    async def forget(self, _: Session, message: dict[str, Any], fds: list[int]) -> Reply:
        """Close the descriptor of `name`; nothing if it is not held."""
        del fds
        self._drop(message["name"])
        return Reply()

    async def list(self, _: Session, message: dict[str, Any], fds: list[int]) -> Reply:
        """Return the records and descriptors after the entry number `after`, as many as a message can carry."""
        del fds
        later = (entry for entry in self._entries.values() if entry.number > message["after"])
        page = tuple(itertools.islice(later, MESSAGE_FDS))
        fields = {"records": [entry.record for entry in page], "last": max((entry.number for entry in page), default=0)}
        return Reply(fields, tuple(os.dup(entry.fd) for entry in page))

    def _drop(self, name: str) -> None:
        entry = self._entries.pop(name, None)
        if entry is not None:
            os.close(entry.fd)


async def keep(path: Path) -> None:
    """Serve until SIGTERM. Raises OSError."""
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    kept = Kept()
    async with AgentServer() as server:
        for handler in (kept.keep, kept.forget, kept.list):
            server.verb(handler.__name__, handler)
        server.listen(path, "", "keeper")
        await stop.wait()


def run(path: Path) -> None:
    """Run the keeper; only this user may connect to its socket. Raises OSError."""
    descriptor_limit()
    asyncio.run(keep(path))
