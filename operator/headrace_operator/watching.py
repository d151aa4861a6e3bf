"""The operator's eyes: kopf watches, and everything it sees goes into the index.

kopf is used level-triggered alone: an event says what an object is now, and the loop asks for a look at its owner. No
handlers of changes, no finalizers, no annotations of kopf's, no peering. Handlers are coroutines that never wait: kopf
runs plain functions in threads, where the index and the loop's queue may not be touched.

kopf tells of an object's deletion only when it hears of it. What vanished while a watch was down (an API server that
was away, `410 Gone`) it does not tell. So whenever it has listed a kind anew (its HTTP session tells us, also of an
empty list), and every ten minutes, what the index holds is compared with a list of names: an audit. The first audits
tell when the index is filled.
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
"""The API server ends each watch after this long, and kopf begins the next where it ended."""
CLIENT_SECONDS = 330
CONNECT_SECONDS = 5
INACTIVITY_SECONDS = 70
"""A watch without even a bookmark (there is one each minute) is dead, however alive its connection looks."""
REQUEST_SECONDS = 30
"""Of kopf's lists: whole ones, of thousands of objects."""
WORKERS = 64
"""Objects of a kind that are taken in at once; each costs a task."""
WORKER_IDLE_SECONDS = 0.1
"""How long a task waits for more of its object. With WORKERS it bounds how fast a list is taken in."""
AUDIT_SECONDS = 600.0
SETTLE_SECONDS = 1.0
"""From a list's answer to its audit: one audit for the lists of all namespaces."""
RETRY_SECONDS = 5.0
FILL_SECONDS = 0.1
"""Between two looks at whether kopf has brought all that is there, at the start alone."""
STOP_SECONDS = 3.0


class Backoffs:
    """The waits of kopf between two attempts of a request: for ever, and short.

    Its own give up after a minute, and end in waits of 21 s: an API server that is back would not be noticed.
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
        """Set for good when everything is in the index that was there at the start."""
        self._api = api
        self._index = index
        self._scopes = namespaces or (None,)
        self._kinds = watched_kinds(namespaces)
        self._due = dict.fromkeys(self._kinds, float("inf"))
        """By kind: the monotonic time of its next audit. Of one that was never listed there is nothing to compare."""
        self._unfilled = set(self._kinds)
        self._wake = asyncio.Event()
        for kind in self._kinds:
            OBJECTS.labels(kind=kind).set_function(partial(index.size, kind))

    async def watch(self, started: Callable[[], None]) -> None:
        """Watch until cancelled. `started` is called once kopf has begun. Raises CannotStart when kopf ends by itself.

        kopf's tasks are run here and not by `kopf.operator`, which at its end cancels every task of the event loop.
        """
        await self._find_the_kinds()
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
            raise CannotStart(f"kopf ended by itself: {cause!r}", hint="Its log tells why") from cause
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks, timeout=STOP_SECONDS)

    async def audit(self) -> None:
        """Remove what vanished untold; runs until cancelled."""
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
        """Compare a kind with the API server; return the seconds until the next time."""
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
        """Remove what is not there any more; return how much is there that kopf has not brought yet."""
        missing = 0
        for scope in self._scopes:
            listing = await self._api.listing(watched, scope)
            uids = {ObjectKey(watched.kind, each.namespace, each.name): each.uid for each in listing.objects}
            for key in self._index.keys(watched.kind):
                entry = self._index.entry(key)
                if entry is None or scope not in (None, key.namespace) or uids.get(key) == entry.uid:
                    continue
                if entry.version <= listing.version:  # what is newer than the list is not judged by it
                    log.warning("%s %s/%s is gone, and no watch had told of it", key.kind, key.namespace, key.name)
                    VANISHED.inc()
                    self._index.remove(key, entry.uid, listing.version)
            missing += sum(self._index.entry(key) is None for key in uids)
        return missing

    async def _find_the_kinds(self) -> None:
        """Wait for the API server. Raises CannotStart when it lacks one of our kinds: kopf would just not watch it."""
        while True:
            try:
                missing = [watched for watched in watched_resources() if not await self._is_known(watched)]
            except ApiError as error:
                log.warning("cannot read what there is: %s", error)
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
        """Note an answer to kopf. After that to a list, what it does not name is gone, and nobody tells."""
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
    """Nothing is kept of what an object last looked like: kopf copies each event's object twice for that."""

    @override
    def build(self, **_: Any) -> Any:
        """Return nothing to compare."""
        return {}

    @override
    def fetch(self, **_: Any) -> Any:
        """Return nothing that was kept."""
        return None

    @override
    def store(self, **_: Any) -> None:
        """Keep nothing."""


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
