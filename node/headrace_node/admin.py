"""The verbs of the admin socket (`headrace.agent.admin` is the client)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from headrace.agent.admin import CLOSE_VOLUME, OBJECTS, OPEN_VOLUME, TENANTS, HeldObject, TenantUse
from headrace.agent.errors import InvalidMessage
from headrace.errors import system_fault
from headrace_node.server import AgentServer, Reply, Session
from headrace_node.store.objects import ObjectStore, Stored
from headrace_node.volumes import Volume, Volumes

TENANT = "headrace-node"
"""Of the admin socket's sessions. They have other verbs than those of pods, and hold nothing."""
PAGE = 100
"""Items of one reply."""
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_NAME = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?")


class AdminVerbs:
    """What the CSI service and operators may call; `register` adds it to a server."""

    def __init__(self, volumes: Volumes, store: ObjectStore) -> None:
        self._volumes = volumes
        self._store = store

    def register(self, server: AgentServer) -> None:
        """Add the verbs."""
        server.verb(OPEN_VOLUME, self.open_volume)
        server.verb(CLOSE_VOLUME, self.close_volume)
        server.verb(OBJECTS, self.objects)
        server.verb(TENANTS, self.tenants)

    async def open_volume(self, _: Session, message: dict[str, Any], __: list[int]) -> Reply:
        """Open the volume `id` of a pod (`namespace`, `pod`, `uid`); reply with its `directory`."""
        namespace, pod, uid = (_field(message, name, _NAME) for name in ("namespace", "pod", "uid"))
        volume = Volume(_field(message, "id", _ID), namespace, pod, uid)
        try:
            return Reply({"directory": str(self._volumes.open(volume))})
        except OSError as error:
            raise system_fault(error, what=f"the volume of {volume.label} cannot be made") from error

    async def close_volume(self, _: Session, message: dict[str, Any], __: list[int]) -> Reply:
        """Close the volume `id`."""
        try:
            self._volumes.close(_field(message, "id", _ID))
        except OSError as error:
            raise system_fault(error, what="the volume cannot be removed") from error
        return Reply()

    async def objects(self, _: Session, message: dict[str, Any], __: list[int]) -> Reply:
        """Describe the objects after the one named by the cursor `after`."""
        return _page(
            {f"{each.record.tenant}/{each.record.key}": _held(each) for each in self._store.objects()}, message
        )

    async def tenants(self, _: Session, message: dict[str, Any], __: list[int]) -> Reply:
        """Describe the tenants after the one named by the cursor `after`."""
        self._store.sweep()
        counters, used = self._store.counters, self._store.accounts.bytes
        names = {tenant for counts in (used, counters.hits, counters.evictions) for tenant, _ in counts}
        uses = {
            name: TenantUse(
                tenant=name,
                memory=_sum(used, name),
                hits=_sum(counters.hits, name),
                misses=counters.misses[name],
                evictions=_sum(counters.evictions, name),
            )
            for name in names | counters.misses.keys()
        }
        return _page({name: asdict(use) for name, use in uses.items()}, message)


def _held(stored: Stored) -> dict[str, Any]:
    record = stored.record
    held = HeldObject(
        tenant=record.tenant,
        key=record.key,
        object_class=record.object_class,
        size=record.size,
        memory=record.memory_bytes,
        leases=stored.leases.total(),
        pinned=record.pinned,
    )
    return asdict(held)


def _sum(counts: Mapping[tuple[str, Any], int], tenant: str) -> int:
    return sum(count for (name, _), count in counts.items() if name == tenant)


def _page(items: Mapping[str, dict[str, Any]], message: dict[str, Any]) -> Reply:
    """Return the items whose names are after the cursor, and the cursor of the next page, if there is one."""
    names = sorted(name for name in items if name > str(message.get("after") or ""))
    page = names[:PAGE]
    return Reply({"items": [items[name] for name in page], "next": page[-1] if len(names) > PAGE else None})


def _field(message: dict[str, Any], name: str, pattern: re.Pattern[str]) -> str:
    value = message.get(name)
    if not isinstance(value, str) or not pattern.fullmatch(value):
        raise InvalidMessage(f"{name}: {str(value)[:128]!r} does not match {pattern.pattern}")
    return value
