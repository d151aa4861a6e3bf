"""One model as this gateway serves it: its route, its replicas, and its queue.

A request takes a free slot of a replica (`take`) or is queued (`hold`). A slot becomes free by an event: a replica was
admitted, a request ended, the weights changed. Each of them calls `pump`, which gives the free slots to queued requests
in order of arrival and never exceeds a replica's capacity, so that a queue does not overload a new replica.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from headrace.api.vocabulary import SCALED_TO_ZERO, SUSPENDED
from headrace.errors import HeadraceError
from headrace.events.messages import Demand, FetchProgress, ReplicaState
from headrace.http.errors import ModelNotFound, Saturated
from headrace.routes import Engine, RevisionWeight, Route, Unavailable
from headrace.runtimes.profile import READINESS_PATH
from headrace_gateway.activator import HoldQueue, Ticket
from headrace_gateway.errors import ModelUnavailable, OperationNotSupported, QueueTimeout
from headrace_gateway.metrics import ModelMetrics
from headrace_gateway.operations import RequestInfo
from headrace_gateway.replica import Replica
from headrace_gateway.routing import RevisionTurns, choose

DEMAND_SECONDS = 0.05
"""Shortest time between two publications of the demand of one model when requests begin to wait."""
PAUSE_SECONDS = 0.1
"""How long a replica that answered 429 gets no requests: other gateways use its capacity, and no report
says when it is free."""
REFUSED_DEMAND_SECONDS = 2.0
"""How long a request counts as demand that was rejected because the model crashes: two reports, so that losing one does
not end the demand."""
REFUSAL_SECONDS = 0.25
"""A request is rejected only if the route is still unavailable after that. Between a corrected spec and its route are a
watch, a reconcile pass and its writes (measured: 80 ms): an error must not describe the spec before."""
WAITING = "waiting"
"""The stage while neither a replica nor the route reports one."""
_SWITCHED_OFF = frozenset({SCALED_TO_ZERO, SUSPENDED})


@dataclass(slots=True)
class Lease:
    """A slot of a replica; its owner returns it with `ServedModel.release`."""

    replica: Replica
    reason: str
    released: bool = False


class ServedModel:
    """See the module. `on_demand` is called when a request begins to wait: its demand is published at once."""

    def __init__(self, namespace: str, name: str, on_demand: Callable[[ServedModel], None]) -> None:
        self.namespace = namespace
        self.name = name
        self.route: Route | None = None
        self.replicas: dict[str, Replica] = {}
        """By pod name."""
        self.queue = HoldQueue()
        self.metrics = ModelMetrics()
        self.in_flight = 0
        self.published_zero = True
        """Whether the last demand that was published was zero."""
        self._on_demand = on_demand
        self._turns = RevisionTurns()
        self._operations: frozenset[str] | None = None
        """The operations that revisions with weight serve together; None: every operation."""
        self._alike = True
        """Whether each of them serves the same operations, with the same adapters."""
        self._adapters: frozenset[str] = frozenset()
        """Public names of the adapters that revisions with weight have."""
        self._progress: FetchProgress | None = None
        self._requests = 0
        self._refused_at = float("-inf")
        self._reconsiderations: set[asyncio.Future[None]] = set()
        """Of requests that are about to be rejected."""
        self._busy_seconds = 0.0
        self._busy_since = 0.0
        self._reported_at = 0.0
        self._demand_published_at = float("-inf")
        self._demand_timer: asyncio.TimerHandle | None = None
        self._loop = asyncio.get_running_loop()

    # -- route and progress ---------------------------------------------------------------------------------------

    def set_route(self, route: Route | None) -> None:
        """Take the route that the reconcile loop has written; None: it was removed."""
        before, self.route = self.route, route
        if route is None:
            self.queue.fail(self._gone)
            return
        self._turns.keep_only(route.revisions)
        self._set_operations(route.revisions)
        unavailable = route.unavailable
        if unavailable is None:
            for reconsideration in [*self._reconsiderations]:
                _end(reconsideration)
        else:
            self.queue.fail(lambda: ModelUnavailable(route.public_name, unavailable))
        if before is None or before.stage != route.stage:
            self.queue.stage_changed()
        self.pump()

    def set_progress(self, progress: FetchProgress) -> None:
        """Take the progress of the fetch of its source."""
        self._progress = progress
        self.queue.stage_changed()

    def stage(self) -> str:
        """Return the stage of the model's start, e.g. `loading-weights 41%`, for clients that wait."""
        loading = [each.report for each in self.replicas.values() if each.report.state is ReplicaState.LOADING]
        if loading:
            furthest = max(loading, key=lambda report: (report.percent is not None, report.percent or 0))
            return _percent(furthest.stage or "starting", furthest.percent)
        stage = self.route.stage if self.route is not None else ""
        if stage == "fetching" and self._progress is not None:
            return _percent(stage, self._progress.percent)
        return stage or WAITING

    # -- operations ------------------------------------------------------------------------------------------------

    def is_adapter(self, public_name: str) -> bool:
        """Whether this is the name of an adapter, and not of the model itself."""
        return public_name in self._adapters and self.route is not None and public_name != self.route.public_name

    def objection(self, request: RequestInfo) -> HeadraceError | None:
        """Return the error if no revision serves the operation of the request, or has its adapter; else None."""
        if request.adapter and request.adapter not in self._adapters:
            return ModelNotFound(
                f"the adapter {request.adapter!r} is no longer served", param="model", hint="GET /v1/models lists yours"
            )
        if self._operations is None or request.operation.name in self._operations:
            return None
        return OperationNotSupported(request.public_name, request.operation.name, self._operations)

    def _set_operations(self, revisions: Iterable[RevisionWeight]) -> None:
        weighted = [each for each in revisions if each.weight_percent > 0]
        served = {each.operations for each in weighted}
        self._operations = frozenset[str]().union(*served) if served and () not in served else None
        self._adapters = frozenset[str]().union(*(each.adapters for each in weighted))
        self._alike = len({(each.operations, each.adapters) for each in weighted}) <= 1
        for ticket in self.queue:
            if (error := self.objection(ticket.request)) is not None:
                self.queue.discard(ticket)
                ticket.settle(error)

    # -- custom containers -----------------------------------------------------------------------------------------

    def loop_reports_for(self, revision: str) -> bool:
        """Whether the replicas of a revision do not register themselves, and the reconcile loop reports for them."""
        engine = self._engine(revision)
        return engine is not None and not engine.announces

    def readiness_path(self, replica: Replica) -> str:
        """Return the path that the replica answers with 200 when it is ready."""
        engine = self._engine(replica.report.revision)
        return READINESS_PATH if engine is None else engine.readiness_path

    def engine_model_name(self, replica: Replica) -> str | None:
        """Return the model's name in the replica's engine; None: the public one."""
        engine = self._engine(replica.report.revision)
        return None if engine is None else engine.model_name

    def _engine(self, revision: str) -> Engine | None:
        if self.route is None or not self.route.engines:
            return None
        return next((each for each in self.route.engines if each.revision == revision), None)

    # -- slots -------------------------------------------------------------------------------------------------------

    def take(self, request: RequestInfo) -> Lease | None:
        """Return a free slot; None if there is none, if requests are queued for one, or if the route is unavailable."""
        if self.route is not None and self.route.unavailable is not None:
            return None
        if self.queue and (self._alike or self.queue.holds(request.needs)):
            return None
        return self._claim(request)

    def release(self, lease: Lease) -> None:
        """Return a slot; a second call does nothing."""
        if lease.released:
            return
        lease.released = True
        now = self._loop.time()
        self._busy_seconds += self.in_flight * (now - self._busy_since)
        self._busy_since = now
        self.in_flight -= 1
        lease.replica.in_flight -= 1
        if self.queue:
            self.pump()

    def pause(self, replica: Replica) -> None:
        """Send nothing to a replica for a moment: it has rejected a request as saturated."""
        if not replica.paused:
            replica.paused = True
            self._loop.call_later(PAUSE_SECONDS, self._resume, replica)

    def hold(self, request: RequestInfo, since: float, *, front: bool) -> Ticket:
        """Queue a request. Raises Saturated if the queue is full, ModelUnavailable if the route is unavailable."""
        route = self.route
        if route is None:
            raise self._gone()
        if route.unavailable is not None:
            self._note_refused(route.unavailable)
            raise ModelUnavailable(route.public_name, route.unavailable)
        if not front and len(self.queue) >= route.max_queued_requests:
            raise Saturated(
                f"the queue of {route.public_name} is full: {route.max_queued_requests} requests wait ({self.stage()})",
                hint="Try again later",
            )
        ticket = Ticket(self.queue, request, since)
        ticket.expire_at(since + route.queue_timeout_seconds, lambda: self._queue_timeout(route))
        self.queue.add(ticket, front=front)
        if len(self.queue) == 1:
            if not any(replica.admitted for replica in self.replicas.values()):
                self.metrics.wakes += 1
            self._publish_demand()
        return ticket

    def reconsideration(self) -> asyncio.Future[None] | None:
        """Return a future that is done when the route is available again, at the latest after `REFUSAL_SECONDS`.

        None: the route is available. A request that waits for the future counts as demand at once.
        """
        if self.route is None or self.route.unavailable is None:
            return None
        self._note_refused(self.route.unavailable)
        future: asyncio.Future[None] = self._loop.create_future()
        timer = self._loop.call_later(REFUSAL_SECONDS, _end, future)
        self._reconsiderations.add(future)
        future.add_done_callback(self._reconsiderations.discard)
        future.add_done_callback(lambda _: timer.cancel())
        return future

    def withdraw(self, ticket: Ticket) -> None:
        """Remove a request whose client has disconnected; its slot, if it has one, is released."""
        if ticket.outcome is None:
            self.queue.discard(ticket)
            ticket.settle(self._gone())
        elif isinstance(ticket.outcome, Lease):
            self.release(ticket.outcome)

    def pump(self) -> None:
        """Give the free slots to queued requests. One whose needs no free replica meets does not block others."""
        full: set[tuple[str, str]] = set()
        for ticket in self.queue:
            needs = ticket.request.needs
            if needs in full:
                continue
            lease = self._claim(ticket.request)
            if lease is not None:
                self.queue.release(ticket, lease, self._loop.time())
            elif self._alike:
                return
            else:
                full.add(needs)

    # -- demand ------------------------------------------------------------------------------------------------------

    def _publish_demand(self) -> None:
        """Publish the demand at once, but at most once per `DEMAND_SECONDS`: a busy model has many short queues."""
        since = self._loop.time() - self._demand_published_at
        if since >= DEMAND_SECONDS:
            self._demand_published_at = self._loop.time()
            self._on_demand(self)
        elif self._demand_timer is None:
            self._demand_timer = self._loop.call_later(DEMAND_SECONDS - since, self._publish_delayed_demand)

    def _publish_delayed_demand(self) -> None:
        self._demand_timer, self._demand_published_at = None, self._loop.time()
        self._on_demand(self)

    def demand(self, gateway: str) -> Demand:
        """Return the demand since the last call: requests in flight are averaged over that time.

        If any request was served in between, it is at least 1: short requests between two reports are not idleness.
        """
        now = self._loop.time()
        self._busy_seconds += self.in_flight * (now - self._busy_since)
        average = self._busy_seconds / max(now - self._reported_at, 0.001)
        in_flight = max(1, round(average)) if self._busy_seconds or self.in_flight else 0
        self._busy_seconds, self._busy_since, self._reported_at = 0.0, now, now
        refused = now - self._refused_at <= REFUSED_DEMAND_SECONDS
        return Demand(
            gateway=gateway,
            queued=max(len(self.queue), int(refused)),
            in_flight=in_flight,
            queue_delay_milliseconds=self.queue.delay_seconds(now) * 1000,
        )

    # ----------------------------------------------------------------------------------------------------------------

    def _claim(self, request: RequestInfo) -> Lease | None:
        choice = choose(request, self.replicas.values(), self.route.revisions if self.route else (), self._turns)
        if choice is None:
            return None
        now = self._loop.time()
        self._requests += 1
        choice.replica.last_used = self._requests
        if not choice.replica.in_flight:
            choice.replica.busy_since = now
        choice.replica.in_flight += 1
        if self.published_zero and not self._busy_seconds and not self.in_flight:
            self._reported_at = now  # the average begins with the first request
        self._busy_seconds += self.in_flight * (now - self._busy_since)
        self._busy_since = now
        self.in_flight += 1
        return Lease(choice.replica, choice.reason)

    def _resume(self, replica: Replica) -> None:
        replica.paused = False
        self.pump()

    def _note_refused(self, unavailable: Unavailable) -> None:
        """Count demand for a model that crashes, which is restarted on demand; not for one that is switched off."""
        if unavailable.reason not in _SWITCHED_OFF:
            now = self._loop.time()
            first = now - self._refused_at > REFUSED_DEMAND_SECONDS
            self._refused_at = now
            if first:
                self._publish_demand()

    def _queue_timeout(self, route: Route) -> HeadraceError:
        return QueueTimeout(
            f"no replica of {route.public_name} could take the request within {route.queue_timeout_seconds} s"
            f" (stage: {self.stage()})",
            hint="Try again later",
        )

    def _gone(self) -> HeadraceError:
        return ModelNotFound("the model is no longer served here", param="model")


def _percent(stage: str, percent: int | None) -> str:
    return stage if percent is None else f"{stage} {percent}%"


def _end(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
