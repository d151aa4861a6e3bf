"""The operator's eyes: kopf watches, and everything it sees goes into the index.

kopf is used level-triggered alone: an event says what an object is now, and the loop asks for a look at its owner. No
handlers of changes, no finalizers, no annotations of kopf's, no peering.

kopf tells of an object's deletion only when it hears of it. What vanished while a watch was down (an API server that
was away, `410 Gone`) it does not tell. So whenever a kind is listed anew, and every ten minutes, what the index holds
is compared with a list of names.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Any

import kopf
from kopf import ConnectionInfo

from headrace_operator.client import ApiError, ApiServer, login
from headrace_operator.index import Index, ObjectKey
from headrace_operator.kinds import ALL, Watched
from headrace_operator.metrics import OBJECTS, VANISHED

log = logging.getLogger(__name__)

SERVER_SECONDS = 300
"""The API server ends each watch after this long, and kopf begins the next where it ended."""
CLIENT_SECONDS = 330
CONNECT_SECONDS = 10
INACTIVITY_SECONDS = 70
"""A watch without even a bookmark (there is one each minute) is dead, however alive its connection looks."""
WORKERS = 64
"""Objects of a kind that are taken in at once; each costs a task."""
WORKER_IDLE_SECONDS = 1.0
AUDIT_SECONDS = 600.0
SETTLE_SECONDS = 1.0
"""From the first event of a new list to the audit: one audit for the whole list."""


class Watching:
    """See the module."""

    def __init__(self, api: ApiServer, index: Index, namespaces: tuple[str, ...]) -> None:
        self._api = api
        self._index = index
        self._namespaces = namespaces
        self._audit: dict[str, float] = {}
        """By kind: the monotonic time of an audit that is due."""
        self._wake = asyncio.Event()
        self.heard = time.monotonic()
        """When a watch last brought anything."""

    async def fill(self) -> None:
        """Take in everything that is there now. Raises ApiError."""
        for watched in ALL.values():
            for namespace in self._namespaces or (None,):
                async for manifest in self._api.list(watched, namespace):
                    self._index.put(manifest)
        self._count()

    async def watch(self, ready: asyncio.Event, stop: asyncio.Event) -> None:
        """Watch until told to stop."""
        await kopf.operator(
            registry=self._registry(),
            settings=_settings(),
            standalone=True,
            clusterwide=not self._namespaces,
            namespaces=self._namespaces,
            ready_flag=ready,
            stop_flag=stop,
        )

    async def audit(self) -> None:
        """Remove what vanished untold; runs until cancelled."""
        while True:
            now = time.monotonic()
            due = [kind for kind, at in self._audit.items() if at <= now]
            for kind in due:
                self._audit[kind] = now + AUDIT_SECONDS
                try:
                    await self._audit_kind(ALL[kind])
                except ApiError as error:
                    log.warning("cannot compare %s with the API server: %s", kind, error)
                    self._audit[kind] = now + CONNECT_SECONDS
            self._count()
            self._wake.clear()
            following = min(self._audit.values(), default=now + AUDIT_SECONDS)
            try:
                async with asyncio.timeout(max(0.0, following - time.monotonic())):
                    await self._wake.wait()
            except TimeoutError:
                continue

    def audit_soon(self, kind: str, seconds: float = SETTLE_SECONDS) -> None:
        """Compare a kind after so many seconds, unless that is going to happen anyway."""
        at = time.monotonic() + seconds
        if at < self._audit.get(kind, float("inf")):
            self._audit[kind] = at
            self._wake.set()

    async def _audit_kind(self, watched: Watched) -> None:
        """Compare names and uids. What was put in while the list was read is newer than the list, and stays."""
        before = {key: entry for key in self._index.keys(watched.kind) if (entry := self._index.entry(key)) is not None}
        for namespace in self._namespaces or (None,):
            async for listed in self._api.list(watched, namespace, metadata_only=True):
                key = ObjectKey(watched.kind, listed["metadata"]["namespace"], listed["metadata"]["name"])
                entry = before.get(key)
                if entry is not None and entry.uid == listed["metadata"]["uid"]:
                    del before[key]
        for key, entry in before.items():
            log.warning("%s %s/%s is gone, and no watch had told of it", key.kind, key.namespace, key.name)
            VANISHED.inc()
            self._index.remove(key, entry.uid)

    def _count(self) -> None:
        for kind, size in self._index.sizes().items():
            OBJECTS.labels(kind=kind).set(size)

    def _registry(self) -> kopf.OperatorRegistry:
        registry = kopf.OperatorRegistry()

        @kopf.on.login(registry=registry)
        def sign_in(**_: Any) -> ConnectionInfo:
            return login()

        for watched in ALL.values():
            kopf.on.event(
                watched.group,
                watched.api_version.rpartition("/")[2],
                watched.plural,
                id=watched.plural,
                registry=registry,
            )(self._handler(watched))
        return registry

    def _handler(self, watched: Watched) -> Callable[..., None]:
        def seen(event: kopf.RawEvent, **_: Any) -> None:
            self.heard = time.monotonic()
            manifest: dict[str, Any] = {"apiVersion": watched.api_version, "kind": watched.kind, **event["object"]}
            if event["type"] == "DELETED":
                self._index.remove(ObjectKey.of(manifest), manifest["metadata"]["uid"])
                return
            self._index.put(manifest)
            if event["type"] is None:  # of a list, not of a watch
                self.audit_soon(watched.kind)

        return seen


def _settings() -> kopf.OperatorSettings:
    settings = kopf.OperatorSettings()
    settings.scanning.disabled = True
    settings.posting.enabled = False
    settings.peering.standalone = True
    settings.watching.server_timeout = SERVER_SECONDS
    settings.watching.client_timeout = CLIENT_SECONDS
    settings.watching.connect_timeout = CONNECT_SECONDS
    settings.watching.inactivity_timeout = INACTIVITY_SECONDS
    settings.networking.request_timeout = CONNECT_SECONDS
    settings.queueing.worker_limit = WORKERS
    settings.queueing.idle_timeout = WORKER_IDLE_SECONDS
    settings.queueing.exit_timeout = 0.5
    for watched in ALL.values():
        if watched.selector is not None:
            key = (watched.group, watched.api_version.rpartition("/")[2], watched.plural)
            settings.watching.label_selectors[key] = watched.selector
    return settings
