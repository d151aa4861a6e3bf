"""Watches by kopf that fill the index.

kopf is used in a level-triggered way: an event contains the present object, and its owner is enqueued. There are no
change handlers, finalizers, annotations or peering of kopf. Handlers are coroutines without awaits: kopf runs plain
functions in threads, which must not access the index and the loop's queue.

kopf reports a deletion only if its watch receives it, and misses deletions while a watch is down (an unavailable API
server, `410 Gone`). So after each list request of kopf (its HTTP session reports them, also empty ones), and every ten
minutes, the index is compared with a list of names: an audit. The first audits determine when the index is filled.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

import kopf
from aiohttp import ClientRequest
from typing_extensions import override

from headrace.errors import CannotStart
from headrace.reconcile.world import ObjectKey
from headrace_operator.client import NOT_FOUND, ApiError, ApiServer
from headrace_operator.index import Index
from headrace_operator.kinds import Watched, watched_kinds, watched_resources
from headrace_operator.metrics import OBJECTS, VANISHED

log = logging.getLogger(__name__)

SERVER_SECONDS = 300
"""The API server ends each watch after this time, and kopf continues from there."""
CLIENT_SECONDS = 330
CONNECT_SECONDS = 5
INACTIVITY_SECONDS = 70
"""A watch without any event counts as dead: there is a bookmark each minute."""
REQUEST_SECONDS = 30
"""Timeout of kopf's lists, which may have thousands of objects."""
WORKERS = 64
"""Objects of a kind that are processed concurrently; each costs a task."""
WORKER_IDLE_SECONDS = 0.1
"""How long a task waits for further events of its object. With WORKERS it bounds the rate at which a list is
processed."""
AUDIT_SECONDS = 600.0
SETTLE_SECONDS = 1.0
"""From a list's response to its audit: one audit for the lists of all namespaces."""
RETRY_SECONDS = 5.0
FILL_SECONDS = 0.1
"""Between two audits at the start, until the index is filled."""
STOP_SECONDS = 3.0


class Backoffs:
    """Short waits of kopf between attempts of a request, without an end.

    kopf's defaults end after a minute, with waits of up to 21 s, and would delay the recovery.
    """

    def __iter__(self) -> Iterator[float]:
        """Yield seconds."""
        yield from (0.2, 0.5, 1.0)
        while True:
            yield 2.0


class Watching:
    """See the module."""

    def __init__(self, api: ApiServer, index: Index, namespaces: tuple[str, ...]) -> None:
        self.filled = asyncio.Event()
        """Set once the index contains all objects that existed at the start."""
        self._api = api
        self._index = index
        self._scopes = namespaces or (None,)
        self._kinds = watched_kinds(namespaces)
        self._due = dict.fromkeys(self._kinds, float("inf"))
        """By kind: the monotonic time of its next audit; infinite until its first list."""
        self._unfilled = set(self._kinds)
        self._wake = asyncio.Event()
        for kind in self._kinds:
            OBJECTS.labels(kind=kind).set_function(partial(index.size, kind))

    async def watch(self, started: Callable[[], None]) -> None:
        """Watch until cancelled. `started` is called once kopf has started. Raises CannotStart if kopf ends by itself.

        kopf's tasks run here and not in `kopf.operator`, which cancels every task of the event loop when it ends.
        """
        await self._check_kinds()
        tasks = await kopf.spawn_tasks(
            registry=self._registry(),
            settings=_settings(self._kinds.values()),
            standalone=True,
            clusterwide=self._scopes == (None,),
            namespaces=[scope for scope in self._scopes if scope is not None],
        )
        started()
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            cause = next((error for task in done if not task.cancelled() and (error := task.exception())), None)
            raise CannotStart(f"kopf ended by itself: {cause!r}", hint="See its log") from cause
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks, timeout=STOP_SECONDS)

    async def audit(self) -> None:
        """Remove objects whose deletion was missed; runs until cancelled."""
        while True:
            for kind in [kind for kind, at in self._due.items() if at <= time.monotonic()]:
                self._due[kind] = time.monotonic() + await self._audit_kind(self._kinds[kind])
            self._wake.clear()
            try:
                async with asyncio.timeout(min(self._due.values()) - time.monotonic()):
                    await self._wake.wait()
            except TimeoutError:
                continue

    async def _audit_kind(self, watched: Watched) -> float:
        """Compare a kind with the API server; return the seconds until its next audit."""
        try:
            missing = await self._compare(watched)
        except ApiError as error:
            log.warning("cannot compare %s with the API server: %s", watched.plural, error)
            return RETRY_SECONDS
        if watched.kind not in self._unfilled:
            return AUDIT_SECONDS
        if missing:
            return FILL_SECONDS
        self._unfilled.discard(watched.kind)
        if not self._unfilled:
            self.filled.set()
        return AUDIT_SECONDS

    async def _compare(self, watched: Watched) -> int:
        """Remove deleted objects from the index; return the number of objects that are not in it yet."""
        missing = 0
        for scope in self._scopes:
            listing = await self._api.listing(watched, scope)
            uids = {ObjectKey(watched.kind, each.namespace, each.name): each.uid for each in listing.objects}
            for key in self._index.keys(watched.kind):
                entry = self._index.entry(key)
                if entry is None or scope not in (None, key.namespace) or uids.get(key) == entry.uid:
                    continue
                if entry.version <= listing.version:  # newer objects are not compared with the list
                    log.warning("%s %s/%s was deleted, and no watch reported it", key.kind, key.namespace, key.name)
                    VANISHED.inc()
                    self._index.remove(key, entry.uid, listing.version)
            missing += sum(self._index.entry(key) is None for key in uids)
        return missing

    async def _check_kinds(self) -> None:
        """Wait for the API server. Raises CannotStart if it lacks a kind of headrace: kopf would skip it silently."""
        while True:
            try:
                missing = [watched for watched in watched_resources() if not await self._is_known(watched)]
            except ApiError as error:
                log.warning("cannot list the resources: %s", error)
                await asyncio.sleep(RETRY_SECONDS)
                continue
            if missing:
                names = ", ".join(f"{watched.plural}.{watched.group}" for watched in missing)
                raise CannotStart(
                    f"the API server does not know {names}",
                    hint="Apply the CustomResourceDefinition: `kubectl apply --server-side -f crds`",
                )
            return

    async def _is_known(self, watched: Watched) -> bool:
        try:
            await self._api.listing(watched, self._scopes[0])
        except ApiError as error:
            if error.status != NOT_FOUND:
                raise
            return False
        return True

    def _answered(self, request: ClientRequest) -> None:
        """Schedule an audit after each list of kopf: objects missing in it were deleted without an event."""
        if "watch" not in request.url.query and request.method == "GET":
            plural = request.url.path.rpartition("/")[2]
            for kind in [watched.kind for watched in self._kinds.values() if watched.plural == plural]:
                self._audit_soon(kind)

    def _audit_soon(self, kind: str) -> None:
        at = time.monotonic() + (FILL_SECONDS if kind in self._unfilled else SETTLE_SECONDS)
        self._due[kind] = min(self._due[kind], at)
        self._wake.set()

    def _registry(self) -> kopf.OperatorRegistry:
        registry = kopf.OperatorRegistry()

        @kopf.on.login(registry=registry)
        async def sign_in(**_: Any) -> kopf.AiohttpSession:
            connection = self._api.connection
            return kopf.AiohttpSession(server=connection.server, aiohttp_session=connection.session(self._answered))

        for watched in self._kinds.values():
            listen = kopf.on.event(watched.group, watched.version, watched.plural, id=watched.plural, registry=registry)
            listen(self._handler(watched))
        return registry

    def _handler(self, watched: Watched) -> Any:
        async def seen(event: kopf.RawEvent, **_: Any) -> None:
            manifest: dict[str, Any] = {**event["object"], "apiVersion": watched.api_version, "kind": watched.kind}
            if event["type"] == "DELETED":
                metadata = manifest["metadata"]
                self._index.remove(ObjectKey.of(manifest), metadata["uid"], int(metadata["resourceVersion"]))
            else:
                self._index.put(manifest)

        return seen


class NoDiffs(kopf.DiffBaseStorage):
    """Stores no last state of objects, for which kopf would copy each event's object twice."""

    @override
    def build(self, **_: Any) -> Any:
        """Return nothing to compare."""
        return {}

    @override
    def fetch(self, **_: Any) -> Any:
        """Return nothing."""
        return None

    @override
    def store(self, **_: Any) -> None:
        """Store nothing."""


def _settings(kinds: Iterable[Watched]) -> kopf.OperatorSettings:
    settings = kopf.OperatorSettings()
    settings.scanning.disabled = True
    settings.posting.enabled = False
    settings.peering.standalone = True
    settings.watching.server_timeout = SERVER_SECONDS
    settings.watching.client_timeout = CLIENT_SECONDS
    settings.watching.connect_timeout = CONNECT_SECONDS
    settings.watching.inactivity_timeout = INACTIVITY_SECONDS
    settings.networking.request_timeout = REQUEST_SECONDS
    settings.networking.connect_timeout = CONNECT_SECONDS
    settings.networking.error_backoffs = Backoffs()
    settings.queueing.worker_limit = WORKERS
    settings.queueing.idle_timeout = WORKER_IDLE_SECONDS
    settings.queueing.exit_timeout = 0.5
    settings.persistence.diffbase_storage = NoDiffs()
    settings.process.ultimate_exiting_timeout = None
    for watched in kinds:
        if watched.selector is not None:
            settings.watching.label_selectors[watched.group, watched.version, watched.plural] = watched.selector
    return settings
