"""The reconcile loop: a queue of resource keys, a few workers, and a pure rule.

Each event (a resource changes, a pod exits, a request is queued, a timer ends) enqueues the key of a resource. Several
events while a key is queued result in one reconcile pass, and a key is never reconciled twice at the same time. A
failed pass is retried after a back-off and does not affect other keys.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from dataclasses import dataclass, field, replace
from typing import Any

import nats.errors
from nats.aio.client import Client

from headrace.control.buckets import BucketWriter
from headrace.control.container_reporter import ContainerReporter
from headrace.control.metrics import RECONCILE_ERRORS, RECONCILE_SECONDS, RESOURCES
from headrace.control.signals import REPORTED_KIND, SignalStore
from headrace.control.world import ChildRefused, World
from headrace.errors import HeadraceError
from headrace.events import subjects
from headrace.events.connection import publish_if_connected, raise_if_cancelled
from headrace.kinds.controller import Controller, no_reporters
from headrace.kinds.registry import RESOURCE_KINDS
from headrace.reconcile.failure_status import failure_status
from headrace.reconcile.sequence import to_apply, to_delete
from headrace.reconcile.world import Child, ChildKey, Observed, Outcome, Publication, ResourceKey, Settings

log = logging.getLogger(__name__)

WORKERS = 4
"""Concurrent reconcile passes, which wait for writes to the cluster and not for the CPU."""
GATEWAY_CHECK_SECONDS = 1.0
"""Longest time until the loop detects that a gateway's presence has expired."""
FIRST_BACKOFF_SECONDS = 1.0
LAST_BACKOFF_SECONDS = 60.0
REPORTED_FAILURES = 3
"""Consecutive failed passes until the status reports them: after some seconds the error is not transient."""
MAX_DOUBLINGS = 6
"""Doublings of the first back-off that exceed the last one."""


@dataclass(slots=True)
class _Known:
    """State that the loop keeps between two reconcile passes of a resource."""

    memory: object = None
    """Memory of the rule; only the kind's rule knows its type."""
    failures: int = 0
    refused: dict[ChildKey, str] = field(default_factory=dict)
    """Why the cluster rejected a child when it was last applied."""
    published: tuple[Publication, ...] = ()
    timer: asyncio.TimerHandle | None = None


@dataclass(frozen=True, slots=True)
class _Refusal:
    """A child that the cluster rejected in this pass."""

    child: Child
    error: ChildRefused


class ControlLoop:
    """Reconciles every resource of a world until cancelled. Created and run in one event loop."""

    def __init__(self, world: World, client: Client, settings: Settings) -> None:
        self._world = world
        self._client = client
        self._settings = settings
        self._signals = SignalStore(client, self.enqueue)
        self._container_reporter = ContainerReporter(client, self.enqueue)
        self._controllers = _controllers()
        buckets = {bucket for resource in RESOURCE_KINDS.values() for bucket in resource.buckets}
        self._published = {bucket: BucketWriter(client, bucket) for bucket in sorted(buckets)}
        """Buckets with publications; entries that no resource publishes are removed."""
        self._keys = BucketWriter(client, subjects.KEYS_BUCKET)
        self._presence = BucketWriter(client, subjects.GATEWAYS_BUCKET)
        """Created and audited here, written by the gateways: never `complete`, so their entries are not removed."""
        self._known: dict[ResourceKey, _Known] = {}
        self._queue: asyncio.Queue[ResourceKey] = asyncio.Queue()  # bounded by the resources: a key is in it once
        self._waiting: set[ResourceKey] = set()
        self._busy: set[ResourceKey] = set()
        self._first_pass: set[ResourceKey] = set()
        self._reconnected = asyncio.Event()
        self._started = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._last_pass = time.monotonic()
        """When a reconcile pass last ended, or the first one was enqueued after an idle period."""

    def enqueue(self, key: ResourceKey) -> None:
        """Schedule a reconcile pass of a resource."""
        if key not in self._waiting:
            if self._idle.is_set():
                self._last_pass = time.monotonic()
            self._waiting.add(key)
            self._idle.clear()
            if key not in self._busy:
                self._queue.put_nowait(key)

    def reconnected(self) -> None:
        """Compare the buckets and solicit reports after a reconnection to NATS, whose content may be outdated."""
        for writer in self._writers():
            writer.compare()
        self._reconnected.set()

    def stuck_seconds(self) -> float:
        """Return how long reconcile passes have been pending while none ended."""
        return 0.0 if self._idle.is_set() else time.monotonic() - self._last_pass

    async def settled(self) -> None:
        """Wait until all present resources are reconciled and the gateways' buckets are written."""
        await self._started.wait()
        await self._idle.wait()
        for writer in (self._keys, *self._published.values()):
            await writer.written()

    async def run(self) -> None:
        """Reconcile until cancelled."""
        self._world.subscribe(self._on_world_change)
        await self._signals.start()
        self._publish_keys()
        keys = self._world.keys()
        self._first_pass = {key for key in keys if self._world.resource(key) is not None}
        if not self._first_pass:
            self._complete_publications()
        for key in keys:
            self.enqueue(key)
        self._started.set()
        async with asyncio.TaskGroup() as tasks:
            for writer in self._writers():
                tasks.create_task(writer.run())
            tasks.create_task(self._solicit_after_reconnections())
            tasks.create_task(self._watch_gateways())
            tasks.create_task(self._container_reporter.run())
            for _ in range(WORKERS):
                tasks.create_task(self._work())

    def _writers(self) -> tuple[BucketWriter, ...]:
        return (self._keys, self._presence, *self._published.values())

    def _complete_publications(self) -> None:
        for writer in self._published.values():
            writer.complete()

    def _on_world_change(self, key: ResourceKey | None) -> None:
        if key is None:
            self._publish_keys()
        else:
            self.enqueue(key)

    def _publish_keys(self) -> None:
        self._keys.set_all_desired({entry: grant.encode() for entry, grant in self._world.api_keys().items()})

    async def _watch_gateways(self) -> None:
        """Enqueue every resource when a gateway or the broker appears or disappears, which sends no message."""
        before = (self._client.is_connected, self._signals.live_gateways())
        while True:
            await self._signals.wait_for_presence_change(GATEWAY_CHECK_SECONDS)
            now = (self._client.is_connected, self._signals.live_gateways())
            if now != before:
                before = now
                for key in list(self._known):
                    self.enqueue(key)

    async def _solicit_after_reconnections(self) -> None:
        while True:
            raise_if_cancelled()
            await self._reconnected.wait()
            self._reconnected.clear()
            with contextlib.suppress(nats.errors.Error):
                await self._signals.solicit()

    async def _work(self) -> None:
        while True:
            raise_if_cancelled()
            key = await self._queue.get()
            self._waiting.discard(key)
            self._busy.add(key)
            try:
                await self._reconcile_once(key)
            finally:
                self._busy.discard(key)
                self._last_pass = time.monotonic()
                if key in self._waiting:
                    self._queue.put_nowait(key)
                elif not self._waiting and not self._busy:
                    self._idle.set()

    async def _reconcile_once(self, key: ResourceKey) -> None:
        """Run one reconcile pass; log, count and retry a failure."""
        known = self._known.setdefault(key, _Known())
        if known.timer is not None:
            known.timer.cancel()
            known.timer = None
        started = time.perf_counter()
        try:
            requeue_seconds = await self._reconcile(key, known)
            known.failures = 0
            self._note_first_pass(key)
        except Exception as error:
            # A failure of one resource must not stop the others: it is logged, counted and retried.
            known.failures += 1
            requeue_seconds = _backoff_seconds(known.failures)
            RECONCILE_ERRORS.inc()
            trace = None if isinstance(error, HeadraceError) else error
            message = f"reconciling {key}: {error}; retrying in {requeue_seconds:.0f} s"
            log.error("%s", message, exc_info=trace)  # noqa: TRY400 - the message of a HeadraceError is sufficient
            if known.failures >= REPORTED_FAILURES:
                await self._report_failure(key, error)
        RECONCILE_SECONDS.observe(time.perf_counter() - started)
        if requeue_seconds is not None and key in self._known:
            known.timer = asyncio.get_running_loop().call_later(requeue_seconds, self.enqueue, key)

    async def _report_failure(self, key: ResourceKey, error: Exception) -> None:
        """Write the cause of failing passes into the status, unless the cluster is unavailable."""
        resource = self._world.resource(key)
        if resource is None:
            return
        why = str(error) if isinstance(error, HeadraceError) else f"{type(error).__name__}: {error}"
        try:
            await self._world.write_status(
                key, failure_status(resource, why, time.time(), RESOURCE_KINDS[key.kind].conditions)
            )
        except Exception as failed:  # noqa: BLE001 - as above; the next pass retries
            log.warning("%s: its status cannot be written: %s", key, failed)

    def _note_first_pass(self, key: ResourceKey) -> None:
        """Remove entries that an earlier process published for deleted resources, once all present ones are reconciled.

        A failed pass does not count: requests for its resource may depend on the route of the earlier process.
        """
        if key in self._first_pass:
            self._first_pass.discard(key)
            if not self._first_pass:
                self._complete_publications()

    async def _reconcile(self, key: ResourceKey, known: _Known) -> float | None:
        resource = self._world.resource(key)
        if resource is None:
            await self._forget(key, known)
            return None
        observed = replace(self._world.observe(key), refused=known.refused)
        controller = self._controllers[key.kind]
        reporters = controller.reporters(resource, observed)
        self._signals.forget_pods(key, reporters.pods)
        if not reporters.fetches:
            self._signals.forget_fetch(key)
        await self._container_reporter.update(key, reporters.probed)
        signals = replace(self._signals.signals(key), probe_faults=self._container_reporter.faults(key))
        outcome = controller.reconcile(resource, observed, signals, self._settings, known.memory)
        refusals = await self._apply(key, outcome)
        refused = {refusal.child.key: str(refusal.error) for refusal in refusals}
        if refused != known.refused:
            for child, why in refused.items():
                log.warning("%s: the %s %s is rejected: %s", key, child.kind, child.name, why)
            known.refused = refused
            observed = replace(observed, refused=refused)
            outcome = controller.reconcile(resource, observed, signals, self._settings, known.memory)
        self._publish(known, outcome.publications)
        await self._carry_out(key, observed, outcome, [refusal.child for refusal in refusals])
        known.memory = outcome.memory
        RESOURCES.set(len(self._known))
        waits = [outcome.requeue_seconds, *(refusal.error.retry_seconds for refusal in refusals)]
        return min((seconds for seconds in waits if seconds is not None), default=None)

    async def _apply(self, key: ResourceKey, outcome: Outcome[Any]) -> list[_Refusal]:
        """Apply the children first, because a cold start waits for them; return the refusals."""
        refusals: list[_Refusal] = []
        refused: list[Child] = []
        for child in to_apply(outcome.children, refused):
            try:
                await self._world.apply(key, child)
            except ChildRefused as error:
                refusals.append(_Refusal(child, error))
                refused.append(child)
        return refusals

    async def _carry_out(
        self, key: ResourceKey, observed: Observed, outcome: Outcome[Any], refused: list[Child]
    ) -> None:
        """Carry out the rest of an outcome. Memory is kept only if all of it succeeds."""
        await self._launch(key, outcome)
        self._world.keep_objects(key, outcome.kept_objects)
        await self._world.set_routable(key, outcome.routable_pods)
        for surplus in to_delete(outcome.children, observed.children, refused):
            await self._world.delete(key, surplus)
        await self._world.write_status(key, outcome.status)
        for event in outcome.events:
            log.info("%s: %s: %s", key, event.reason, " ".join(event.message.split()))
            await self._world.record(key, event)

    async def _launch(self, key: ResourceKey, outcome: Outcome[Any]) -> None:
        """Let standby pods become replicas. A message that is lost is sent again by the next pass."""
        launches = dict(outcome.launches)
        for conversion in outcome.conversions:
            pod = await self._world.convert(key, conversion)
            if pod is not None:
                log.info("%s: the standby pod %s becomes the replica, instead of %s", key, pod, conversion.pod)
                launches[pod] = conversion.launch
        for pod, launch in launches.items():
            await publish_if_connected(self._client, subjects.launch(key.namespace, pod), launch)

    def _publish(self, known: _Known, publications: tuple[Publication, ...]) -> None:
        """Publish entries, and withdraw those of the pass before that are not among them."""
        entries = {(each.bucket, each.entry) for each in publications}
        withdrawn = [replace(each, value=None) for each in known.published if (each.bucket, each.entry) not in entries]
        known.published = publications
        for each in (*withdrawn, *publications):
            value = each.value.encode() if each.value is not None else None
            self._published[each.bucket].set_desired(each.entry, value)

    async def _forget(self, key: ResourceKey, known: _Known) -> None:
        """Withdraw the publications of a deleted resource, and delete its children, which may fail."""
        self._publish(known, ())
        await self._container_reporter.update(key, ())
        self._signals.forget(key)
        self._note_first_pass(key)
        for child in to_delete((), self._world.observe(key).children, ()):
            await self._world.delete(key, child)
        self._known.pop(key, None)
        RESOURCES.set(len(self._known))


def _controllers() -> dict[str, Controller]:
    """Return the controller of each kind. Raises ValueError when it has reporters, and reports have no subject."""
    controllers = {name: resource.controller() for name, resource in RESOURCE_KINDS.items()}
    for name, controller in controllers.items():
        if name != REPORTED_KIND and controller.reporters is not no_reporters:
            raise ValueError(f"{name} has reporters, but the subjects of reports are those of a {REPORTED_KIND}")
    return controllers


def _backoff_seconds(failures: int) -> float:
    """Return the delay after consecutive failures. The exponent is bounded, because 2.0 ** 1024 overflows."""
    return min(FIRST_BACKOFF_SECONDS * 2.0 ** min(failures - 1, MAX_DOUBLINGS), LAST_BACKOFF_SECONDS)
