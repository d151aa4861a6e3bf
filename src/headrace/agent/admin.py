"""The admin interface of the node agent: volumes of pods, and what the agent holds.

Its socket is the agent's own, which only the agent's user can connect to: it lists and changes what belongs to every
tenant. The CSI service and `headrace node` use it. Each call is a connection of its own, so that a restart of the agent
affects only calls in progress.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from headrace.agent.connection import AgentConnection
from headrace.agent.errors import AgentUnavailable

SOCKET_NAME = "admin.sock"
"""Of the socket in the agent's socket directory."""
OPEN_VOLUME, CLOSE_VOLUME, OBJECTS, TENANTS = "open-volume", "close-volume", "objects", "tenants"
"""The verbs."""
CALL_SECONDS = 5.0
"""A call takes milliseconds; the kubelet waits for the CSI service meanwhile."""


@dataclass(frozen=True, slots=True)
class HeldObject:
    """A sealed object of the store."""

    tenant: str
    key: str
    object_class: str
    size: int
    """Bytes of the content."""
    memory: int
    """Bytes that it takes of the store."""
    leases: int
    pinned: bool


@dataclass(frozen=True, slots=True)
class TenantUse:
    """What a tenant has in the store, and how often it found an object there since the agent's start."""

    tenant: str
    memory: int
    """Bytes of its objects and drafts."""
    hits: int
    misses: int
    evictions: int

    @property
    def hit_ratio(self) -> float | None:
        """Share of requests for an object that the store had; None without a request."""
        return self.hits / (self.hits + self.misses) if self.hits + self.misses else None


class AdminClient:
    """A client of the admin socket. Methods raise AgentError."""

    def __init__(self, socket: Path) -> None:
        self._socket = socket

    def is_reachable(self) -> bool:
        """Whether the agent accepts connections."""
        try:
            AgentConnection(self._socket, reply_seconds=CALL_SECONDS).close()
        except AgentUnavailable:
            return False
        return True

    def open_volume(self, volume_id: str, *, namespace: str, pod: str, uid: str) -> Path:
        """Return the directory with the socket of a pod; the same one when it is called again."""
        fields = {"id": volume_id, "namespace": namespace, "pod": pod, "uid": uid}
        return Path(str(self._call(OPEN_VOLUME, fields)["directory"]))

    def close_volume(self, volume_id: str) -> None:
        """End the socket of a pod and remove the directory, if the volume exists."""
        self._call(CLOSE_VOLUME, {"id": volume_id})

    def objects(self) -> Iterator[HeldObject]:
        """Yield every sealed object, by tenant and key."""
        return (HeldObject(**fields) for fields in self._pages(OBJECTS))

    def tenants(self) -> Iterator[TenantUse]:
        """Yield every tenant that has or had objects."""
        return (TenantUse(**fields) for fields in self._pages(TENANTS))

    def _pages(self, verb: str) -> Iterator[dict[str, Any]]:
        after: object = None
        while True:
            reply = self._call(verb, {"after": after})
            yield from reply["items"]
            after = reply["next"]
            if after is None:
                return

    def _call(self, verb: str, fields: dict[str, Any]) -> dict[str, Any]:
        with contextlib.closing(AgentConnection(self._socket, reply_seconds=CALL_SECONDS)) as connection:
            return connection.call(verb, fields).body
