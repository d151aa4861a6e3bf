"""Every object of the local cluster, in memory, with watches, as an API server offers them."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass
from typing import Literal

from headrace.reconcile.world import Manifest, ObjectKey

MAX_BEHIND = 1000
"""Changes that a watcher may be behind; then its watch ends, as with an API server, and it may start a new one."""


@dataclass(frozen=True, slots=True)
class Change:
    """One change of one object."""

    type: Literal["ADDED", "MODIFIED", "DELETED"]
    object: Manifest
    before: Manifest | None = None
    """The object before the change; None if it is new."""


class ObjectIndex:
    """Objects are replaced, never changed in place: a reference to one is a snapshot."""

    def __init__(self) -> None:
        self._kinds: dict[str, dict[ObjectKey, Manifest]] = {}
        """By kind, so that listing a few Deployments does not read a thousand events."""
        self._versions = itertools.count(1)
        self._watchers: set[asyncio.Queue[Change | None]] = set()
        self._listeners: list[Callable[[Change], None]] = []

    def listen(self, listener: Callable[[Change], None]) -> None:
        """Call the listener after every change, synchronously."""
        self._listeners.append(listener)

    def get(self, key: ObjectKey) -> Manifest | None:
        """Return an object."""
        return self._kinds.get(key.kind, {}).get(key)

    def list(self, kind: str, namespace: str | None = None) -> list[Manifest]:
        """Return the objects of a kind, by namespace and name."""
        objects = self._kinds.get(kind, {})
        return [objects[key] for key in sorted(key for key in objects if namespace in (None, key.namespace))]

    def put(self, manifest: Manifest) -> Manifest:
        """Add or replace an object and return the stored object; an equal one changes nothing."""
        key = ObjectKey.of(manifest)
        before = self.get(key)
        version = "" if before is None else before["metadata"].get("resourceVersion", "")
        same = {**manifest, "metadata": {**manifest["metadata"], "resourceVersion": version}}
        if before is not None and same == before:
            return before
        stored = {**manifest, "metadata": {**manifest["metadata"], "resourceVersion": str(next(self._versions))}}
        self._kinds.setdefault(key.kind, {})[key] = stored
        self._notify(Change("ADDED" if before is None else "MODIFIED", stored, before))
        return stored

    def remove(self, key: ObjectKey) -> None:
        """Remove an object; nothing happens if it does not exist."""
        gone = self._kinds.get(key.kind, {}).pop(key, None)
        if gone is not None:
            self._notify(Change("DELETED", gone, gone))

    def watch(self, kind: str, namespace: str | None = None) -> AsyncIterator[Change]:
        """Yield the present objects (as ADDED), then every change from this call on; ends when too far behind."""
        queue: asyncio.Queue[Change | None] = asyncio.Queue(MAX_BEHIND + 1)
        self._watchers.add(queue)
        return self._changes(queue, self.list(kind, namespace), kind, namespace)

    async def _changes(
        self, queue: asyncio.Queue[Change | None], present: Iterable[Manifest], kind: str, namespace: str | None
    ) -> AsyncIterator[Change]:
        try:
            for manifest in present:
                yield Change("ADDED", manifest)
            while (change := await queue.get()) is not None:
                key = ObjectKey.of(change.object)
                if key.kind == kind and namespace in (None, key.namespace):
                    yield change
        finally:
            self._watchers.discard(queue)

    def _notify(self, change: Change) -> None:
        for listener in self._listeners:
            listener(change)
        for queue in list(self._watchers):
            if queue.qsize() < MAX_BEHIND:
                queue.put_nowait(change)
            else:
                self._watchers.discard(queue)
                queue.put_nowait(None)
