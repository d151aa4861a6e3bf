"""Kubernetes events about resources and API keys: equal events are one object with a count.

Nothing depends on an event. One that cannot be written is dropped and logged, so that no reconcile pass fails and is
repeated because of it.
"""

from __future__ import annotations

import logging
import time

from headrace.api import vocabulary as v
from headrace.reconcile.conditions import timestamp
from headrace.reconcile.world import Event, Manifest
from headrace_operator.client import CONFLICT, NOT_FOUND, ApiError, ApiServer
from headrace_operator.index import digest
from headrace_operator.kinds import EVENT

log = logging.getLogger(__name__)

MAX_COUNTED = 4096
"""Events whose count is cached. The count of any other is read from the API server first."""


class Recorder:
    """Writes events; see the module."""

    def __init__(self, api: ApiServer, pod_name: str) -> None:
        self._api = api
        self._pod_name = pod_name
        self._counts: dict[tuple[str, str], int] = {}
        """By namespace and name of the event, oldest first."""

    async def record(self, resource: Manifest, event: Event) -> None:
        """Record an event about the resource."""
        try:
            await self._record(resource, event)
        except ApiError as error:
            log.warning("the event %s was not recorded: %s", event.reason, error)

    async def _record(self, resource: Manifest, event: Event) -> None:
        metadata, now = resource["metadata"], timestamp(time.time())
        said = digest([metadata["uid"], event.type, event.reason, event.message])
        key = (metadata["namespace"], f"{metadata['name']}.{said}")
        known = self._counts.pop(key, 0)
        count = await self._count(key, known + 1, now) if known else 0
        if count == 0:
            count = await self._create(key, self._manifest(resource, event, key, now), now)
        self._counts[key] = count
        if len(self._counts) > MAX_COUNTED:
            self._counts.pop(next(iter(self._counts)))

    async def _create(self, key: tuple[str, str], manifest: Manifest, now: str) -> int:
        """Create the event; return its count. An event from before a restart is counted on."""
        try:
            await self._api.create(EVENT.path(key[0]), manifest)
        except ApiError as error:
            if error.status != CONFLICT:
                raise
            found = await self._api.merge(EVENT.path(*key), {"lastTimestamp": now})
            return await self._count(key, int(found.get("count") or 1) + 1, now)
        return 1

    async def _count(self, key: tuple[str, str], count: int, now: str) -> int:
        """Write the count, and return it; 0 if the event has expired meanwhile."""
        try:
            await self._api.merge(EVENT.path(*key), {"count": count, "lastTimestamp": now})
        except ApiError as error:
            if error.status != NOT_FOUND:
                raise
            return 0
        return count

    def _manifest(self, resource: Manifest, event: Event, key: tuple[str, str], now: str) -> Manifest:
        metadata = resource["metadata"]
        return {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"name": key[1], "namespace": key[0]},
            "involvedObject": {
                "apiVersion": resource["apiVersion"],
                "kind": resource["kind"],
                **{field: metadata[field] for field in ("namespace", "name", "uid", "resourceVersion")},
            },
            "type": event.type,
            "reason": event.reason,
            "message": event.message,
            "count": 1,
            "firstTimestamp": now,
            "lastTimestamp": now,
            "source": {"component": v.FIELD_MANAGER, "host": self._pod_name},
            "reportingComponent": v.FIELD_MANAGER,
            "reportingInstance": self._pod_name,
        }
