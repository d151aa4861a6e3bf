"""One model as this gateway serves it: its route, its replicas, and who waits for one of them.

A request takes a free place (`take`), or waits (`hold`). A place becomes free by an event: a replica was admitted, a
request ended, the weights changed. Each of them ends in `pump`, which gives places to those who wait, first come first
served, and no more than there are: a replica that has just come up is not run down by the queue that waited for it.
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

TELL_SECONDS = 0.05
"""Shortest time between two tellings that somebody began to wait."""
PAUSE_SECONDS = 0.1
"""How long a replica that answered 429 is left alone: other gateways filled it, and it says when only by answering."""
REFUSED_DEMAND_SECONDS = 2.0
"""A request that was refused because the model crashes counts as demand for so long: two reports, so that none that is
lost makes the loop give up."""
REFUSAL_SECONDS = 0.25
"""A request is refused only if the loop still says so after that. Between a spec that was mended and its route are a
watch, a reconcile pass and its writes (measured: 80 ms): nobody is told meanwhile what the old spec lacked."""
WAITING = "waiting"
"""The stage while nobody has said anything else."""
_SWITCHED_OFF = frozenset({SCALED_TO_ZERO, SUSPENDED})


@dataclass(slots=True)
class Lease:
    """A place at a replica; whoever has it gives it back with `ServedModel.release`."""

    replica: Replica
    reason: str
    given_back: bool = False


class ServedModel:
    """See the module. `on_demand` is called when somebody waits who did not before: the loop should know at once."""

    def __init__(self, namespace: str, name: str, on_demand: Callable[[ServedModel], None]) -> None:
        self.namespace = namespace
        self.name = name
        self.route: Route | None = None
        self.replicas: dict[str, Replica] = {}
        """By pod name."""
        self.queue = HoldQueue()
        self.metrics = ModelMetrics()
        self.in_flight = 0
        self.said_zero = True
        """Whether the last demand that was published was zero."""
        self._on_demand = on_demand
        self._turns = RevisionTurns()
        self._operations: frozenset[str] | None = None
        """What the revisions with weight serve together; None: every operation."""
        self._alike = True
        """Whether each of them serves the same."""
        self._progress: FetchProgress | None = None
        self._requests = 0
        self._refused_at = float("-inf")
        self._reconsiderations: set[asyncio.Future[None]] = set()
        """Of requests that are about to be refused."""
        self._busy_seconds = 0.0
        self._busy_since = 0.0
        self._reported_at = 0.0
        self._told_at = float("-inf")
        self._telling: asyncio.TimerHandle | None = None
        self._loop = asyncio.get_running_loop()

    # -- route and progress ---------------------------------------------------------------------------------------

    def set_route(self, route: Route | None) -> None:
        """The loop has written (or removed) the route."""
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

    def objection(self, request: RequestInfo) -> HeadraceError | None:
        """Return why no revision can take the request: none serves its operation."""
        if self._operations is None or request.operation.name in self._operations:
            return None
        return OperationNotSupported(request.public_name, request.operation.name, self._operations)

    def _set_operations(self, revisions: Iterable[RevisionWeight]) -> None:
        served = {each.operations for each in revisions if each.weight_percent > 0}
        self._operations = frozenset[str]().union(*served) if served and () not in served else None
        self._alike = len(served) <= 1
        for ticket in self.queue:
            if (error := self.objection(ticket.request)) is not None:
                self.queue.discard(ticket)
                ticket.settle(error)

    # -- brought containers ----------------------------------------------------------------------------------------

    def loop_reports_for(self, revision: str) -> bool:
        """Whether the replicas of a revision know nothing of headrace, and the reconcile loop reports for them."""
        engine = self._engine(revision)
        return engine is not None and not engine.announces

    def readiness_path(self, replica: Replica) -> str:
        """Return what the replica answers with 200 when it can serve."""
        engine = self._engine(replica.report.revision)
        return READINESS_PATH if engine is None else engine.readiness_path

    def engine_model_name(self, replica: Replica) -> str | None:
        """Return the name by which the replica knows the model; None: the public one."""
        engine = self._engine(replica.report.revision)
        return None if engine is None else engine.model_name

    def _engine(self, revision: str) -> Engine | None:
        if self.route is None or not self.route.engines:
            return None
        return next((each for each in self.route.engines if each.revision == revision), None)

    # -- places ------------------------------------------------------------------------------------------------------

    def take(self, request: RequestInfo) -> Lease | None:
        """Return a free place; None when there is none, or others wait for one already, or the loop says no."""
        if self.route is not None and self.route.unavailable is not None:
            return None
        if self.queue and (self._alike or self.queue.holds(request.operation)):
            return None
        return self._claim(request)

    def release(self, lease: Lease) -> None:
        """Give a place back, if it is not yet."""
        if lease.given_back:
            return
        lease.given_back = True
        now = self._loop.time()
        self._busy_seconds += self.in_flight * (now - self._busy_since)
        self._busy_since = now
        self.in_flight -= 1
        lease.replica.in_flight -= 1
        if self.queue:
            self.pump()

    def pause(self, replica: Replica) -> None:
        """The replica is full, whatever we believe."""
        if not replica.paused:
            replica.paused = True
            self._loop.call_later(PAUSE_SECONDS, self._resume, replica)

    def hold(self, request: RequestInfo, since: float, *, front: bool) -> Ticket:
        """Wait for a place. Raises Saturated when too many wait, ModelUnavailable when waiting is in vain."""
        route = self.route
        if route is None:
            raise self._gone()
        if route.unavailable is not None:
            self._note_refused(route.unavailable)
            raise ModelUnavailable(route.public_name, route.unavailable)
        if not front and len(self.queue) >= route.max_queued_requests:
            raise Saturated(
                f"{route.max_queued_requests} requests wait for {route.public_name} already ({self.stage()})",
                hint="Try again later",
            )
        ticket = Ticket(self.queue, request, since)
        ticket.expire_at(since + route.queue_timeout_seconds, lambda: self._too_late(route))
        self.queue.add(ticket, front=front)
        if len(self.queue) == 1:
            if not any(replica.admitted for replica in self.replicas.values()):
                self.metrics.wakes += 1
            self._tell_demand()
        return ticket

    def reconsideration(self) -> asyncio.Future[None] | None:
        """Return a future that is done when the loop no longer refuses the model, or a moment later all the same.

        None: it does not refuse it. Whoever waits for it counts as demand at once.
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
        """The one who waited has gone; a place that was just given to it is given back."""
        if ticket.outcome is None:
            self.queue.discard(ticket)
            ticket.settle(self._gone())
        elif isinstance(ticket.outcome, Lease):
            self.release(ticket.outcome)

    def pump(self) -> None:
        """Give the free places to those who wait. One whose operation no free replica serves lets others pass."""
        full: set[str] = set()
        for ticket in self.queue:
            operation = ticket.request.operation.name
            if operation in full:
                continue
            lease = self._claim(ticket.request)
            if lease is not None:
                self.queue.release(ticket, lease, self._loop.time())
            elif self._alike:
                return
            else:
                full.add(operation)

    # -- demand ------------------------------------------------------------------------------------------------------

    def _tell_demand(self) -> None:
        """Say it at once, but not for each of a thousand short queues a second before a busy model."""
        since = self._loop.time() - self._told_at
        if since >= TELL_SECONDS:
            self._told_at = self._loop.time()
            self._on_demand(self)
        elif self._telling is None:
            self._telling = self._loop.call_later(TELL_SECONDS - since, self._tell_later)

    def _tell_later(self) -> None:
        self._telling, self._told_at = None, self._loop.time()
        self._on_demand(self)

    def demand(self, gateway: str) -> Demand:
        """Return the demand since the last call: requests in flight are averaged over that time.

        Whatever was served in between counts as one at least: short requests between two looks are no idleness.
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
        if self.said_zero and not self._busy_seconds and not self.in_flight:
            self._reported_at = now  # the average begins with the work
        self._busy_seconds += self.in_flight * (now - self._busy_since)
        self._busy_since = now
        self.in_flight += 1
        return Lease(choice.replica, choice.reason)

    def _resume(self, replica: Replica) -> None:
        replica.paused = False
        self.pump()

    def _note_refused(self, unavailable: Unavailable) -> None:
        """A model that crashes is healed by trying again, for which the loop wants demand; an off switch is not."""
        if unavailable.reason not in _SWITCHED_OFF:
            now = self._loop.time()
            first = now - self._refused_at > REFUSED_DEMAND_SECONDS
            self._refused_at = now
            if first:
                self._tell_demand()

    def _too_late(self, route: Route) -> HeadraceError:
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
