"""Where the agent keeps its objects for the agent after it: the descriptors are held by another process, the keeper."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from headrace.agent.connection import AgentConnection
from headrace.agent.errors import AgentError
from headrace.store.keys import ObjectClass

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Record:
    """What identifies a sealed object."""

    tenant: str
    key: str
    object_class: ObjectClass
    size: int
    """Bytes of the content."""
    memory_bytes: int
    """Bytes of the segment."""
    pinned: bool = False
    """Whether it is exempt from eviction."""
    name: str | None = None
    """By which `ObjectStore.obtain` finds it, unique in its tenant and class."""
    buffer: bool = False
    """Whether its creator goes on writing it."""

    @property
    def kept_as(self) -> str:
        """Its name at the keeper."""
        return f"{self.tenant}/{self.key}"


class Keeping(Protocol):
    """Keeps objects beyond the agent's life."""

    def keep(self, record: Record, fd: int) -> None:
        """Keep a sealed object, or replace its record; the keeper gets a copy of the descriptor."""

    def forget(self, record: Record) -> None:
        """Drop an object, before the agent frees it."""

    def kept(self) -> Iterator[tuple[Record, int]]:
        """Yield the kept objects; the descriptors belong to the caller."""


class NoKeeper:
    """Without a keeper, objects end with the agent."""

    def keep(self, record: Record, fd: int) -> None:
        """Keep nothing."""

    def forget(self, record: Record) -> None:
        """Drop nothing."""

    def kept(self) -> Iterator[tuple[Record, int]]:
        """Yield nothing."""
        return iter(())


NO_KEEPER = NoKeeper()


class Keeper:
    """A keeper process (`headrace_node.keeper`) at a socket.

    If it fails, the store works on, and objects end with the agent. With the next change after it was restarted, it
    gets all of them again. Raises AgentUnavailable if it does not listen.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._connection = AgentConnection(path)
        self._kept: dict[str, tuple[Record, int]] = {}
        """What the keeper is to hold; the descriptors belong to the store, which forgets an object before it closes."""

    def keep(self, record: Record, fd: int) -> None:
        """Send the descriptor to the keeper."""
        self._kept[record.kept_as] = record, fd
        self._call("keep", {"name": record.kept_as, "record": asdict(record)}, fd)

    def forget(self, record: Record) -> None:
        """Let the keeper close its descriptor."""
        self._kept.pop(record.kept_as, None)
        self._call("forget", {"name": record.kept_as})

    def kept(self) -> Iterator[tuple[Record, int]]:
        """Receive the descriptors, in the order of keeping. Raises AgentError."""
        after = 0
        while True:
            received = self._connection.call("list", {"after": after})
            if not received.fds:
                return
            after = received.body["last"]
            for fields, fd in zip(received.body["records"], received.fds, strict=True):
                record = Record(**{**fields, "object_class": ObjectClass(fields["object_class"])})
                self._kept[record.kept_as] = record, fd
                yield record, fd

    def close(self) -> None:
        """End the connection; the keeper goes on keeping."""
        self._connection.close()

    def _call(self, verb: str, fields: dict[str, Any], *fds: int) -> None:
        try:
            if self._connection.closed:
                self._connect_again()
            self._connection.call(verb, fields, fds)
        except AgentError as error:
            log.warning("an object is not kept for the agent's next start: %s", error)

    def _connect_again(self) -> None:
        """Connect to a restarted keeper, and hand over all objects. Raises AgentError."""
        self._connection = AgentConnection(self._path)
        for record, fd in self._kept.values():
            self._connection.call("keep", {"name": record.kept_as, "record": asdict(record)}, (fd,))
