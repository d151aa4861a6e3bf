"""The autoscaler of a ModelDeployment's replicas.

The rule is Knative's KPA on LLM signals. Two windows average the same load: the *stable* window (60 s) decides by
default; the *panic* window (6 s) decides when its average needs at least twice the ready replicas, and from then until
a whole stable window has passed without such a burst the number of replicas never decreases. Pure: time and signals
are arguments, and a decision is the result.

    desired = ceil(load)        clamped to [ready / 2, ready * 1000], then to [min, max]

The unit of load is one replica's work. For Concurrency it is the requests (queued and in flight) over the target; for
QueueDelay it is the ready replicas times the delay over its target, so that a doubled delay needs doubled replicas, and
at least the requests in flight over a replica's capacity, because fully used replicas cause no delay.

Utilisation: Knative's default target is 70 % of a *limit*. Our target is not a limit (`maxConcurrentRequests` is the
limit, by default twice the target), so no percentage is applied; more headroom needs a lower target.

Scale from zero: at once, with the first queued request. Scale to zero: only after `idle_timeout_seconds` without any
request, and then at once, regardless of the windows. A rule that has just (re)started, or that received no signals for
a while, does not know the past demand: its idle timeout starts now and it starts in panic mode, so it may scale up at
once but scales down only after a full stable window.

A replica is *activating* until it was ready once, fails, or exceeds its startup deadline; the caller counts these.
While there are any, no replica is removed: a client that gives up and retries would otherwise start one replica after
another and never get a response. The idle timeout therefore also starts when a replica first becomes ready.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Literal

from headrace.scaling.window import Window

STABLE_WINDOW_SECONDS = 60
PANIC_WINDOW_SECONDS = 6
"""A tenth of the stable window, Knative's default."""
PANIC_THRESHOLD = 2.0
"""Panic mode starts when the panic window needs this many times the ready replicas."""
MAX_SCALE_UP_RATE = 1000.0
MAX_SCALE_DOWN_RATE = 2.0
"""At most to half in one decision, because the other replicas must take the requests of the removed ones."""
TARGET_BURST_CAPACITY = 211
"""Requests that can arrive at once without being queued: Knative's default, subtracted in `Decision.burst_capacity`."""


class Reason(StrEnum):
    """Reason of a decision, part of the message of the event `Scaled`."""

    WOKEN = "a request is waiting"
    IDLE = "no requests for the idle timeout"
    STABLE = "average demand of the last 60 s"
    PANIC = "demand at least doubled within 6 s"
    MINIMUM = "spec.scaling.minReplicas"
    HOLDING = "no replica is removed within 60 s of a rise in demand"
    ACTIVATING = "no replica is removed while one is starting"
    STALE = "no replica is removed while demand is unknown"


@dataclass(frozen=True, slots=True)
class ScalePolicy:
    """The scaling settings of a resource."""

    min_replicas: int
    max_replicas: int
    metric: Literal["Concurrency", "QueueDelay"]
    target: float
    """Concurrency: requests per replica. QueueDelay: milliseconds."""
    idle_timeout_seconds: float
    replica_capacity: int
    """Requests that one replica processes at the same time: the limit, above the target."""


@dataclass(frozen=True, slots=True)
class Sample:
    """Present measurements, over all gateways."""

    queued: int
    in_flight: int
    queue_delay_milliseconds: float
    ready_replicas: int
    activating_replicas: int = 0
    """Replicas that may still become ready for the first time."""
    last_activation: float = -math.inf
    """When a replica last became ready for the first time (monotonic seconds)."""
    fresh: bool = True
    """False while NATS or the gateways are unavailable: the counts are then unknown, not zero."""

    @property
    def requests(self) -> int:
        """Requests queued and in flight."""
        return self.queued + self.in_flight


@dataclass(frozen=True, slots=True)
class ScaleState:
    """State of the rule between decisions."""

    replicas: int
    """The last decision."""
    last_active: float
    """When there was last a request, a replica became ready for the first time, or either may have been missed."""
    window: Window = field(default_factory=Window)
    panic_since: float | None = None
    """When the panic window last exceeded its threshold, or demand was unknown; None outside panic mode."""


@dataclass(frozen=True, slots=True)
class Decision:
    """The desired number of replicas, its reason, and the next state."""

    replicas: int
    reason: Reason
    state: ScaleState
    needed: int
    """Replicas that the demand needs, before the limits of the resource."""
    burst_capacity: int
    """Requests beyond the target burst that can arrive at once without being queued; negative if some would be."""
    seconds_to_idle: float | None = None
    """Time until the idle timeout can expire; None while there is demand, or if no idle timeout applies."""


def start(replicas: int, now: float) -> ScaleState:
    """Return the state of a rule that starts now with `replicas` existing ones: the idle timeout starts now."""
    return ScaleState(replicas=replicas, last_active=now, panic_since=now if replicas else None)


def decide(policy: ScalePolicy, state: ScaleState, sample: Sample, now: float) -> Decision:
    """Return the decision at `now` (monotonic seconds)."""
    if not sample.fresh:
        # Measurements from before the outage do not describe the demand after it.
        restarted = start(state.replicas, now)
        return _decision(policy, restarted, sample, max(state.replicas, policy.min_replicas), Reason.STALE)
    state = replace(state, last_active=now if sample.requests else max(state.last_active, sample.last_activation))
    if not sample.requests and (state.replicas == 0 or _is_idle(policy, state, sample, now)):
        idle = replace(state, window=Window(), panic_since=None)
        return _decision(policy, idle, sample, 0, Reason.IDLE)
    load = _load(policy, sample)
    state = replace(state, window=state.window.with_sample(now, load, keep_seconds=STABLE_WINDOW_SECONDS))
    if state.replicas == 0:
        return _decision(policy, state, sample, max(1, math.ceil(load)), Reason.WOKEN)
    state, wanted, reason = _from_windows(state, sample, now)
    if sample.activating_replicas and wanted < state.replicas:
        # No replica is removed, because a Deployment first removes replicas that are not ready.
        wanted, reason = state.replicas, Reason.ACTIVATING
    # Only the idle timeout removes the last replica, regardless of the averages.
    decision = _decision(policy, state, sample, max(wanted, 1), reason)
    if sample.requests or sample.activating_replicas or policy.min_replicas:
        return decision
    return replace(decision, seconds_to_idle=_idle_left(policy, state, now))


def _is_idle(policy: ScalePolicy, state: ScaleState, sample: Sample, now: float) -> bool:
    return policy.min_replicas == 0 and not sample.activating_replicas and _idle_left(policy, state, now) <= 0


def _idle_left(policy: ScalePolicy, state: ScaleState, now: float) -> float:
    return state.last_active + policy.idle_timeout_seconds - now


def _load(policy: ScalePolicy, sample: Sample) -> float:
    """Return the load; the unit is one replica's work."""
    if policy.metric == "Concurrency":
        return sample.requests / policy.target
    if sample.requests == 0:
        return 0.0
    waiting = max(sample.ready_replicas, 1) * sample.queue_delay_milliseconds / policy.target
    return max(waiting, sample.in_flight / policy.replica_capacity)


def _from_windows(state: ScaleState, sample: Sample, now: float) -> tuple[ScaleState, int, Reason]:
    ready = max(sample.ready_replicas, 1)
    stable = _clamped(state.window.average(now, STABLE_WINDOW_SECONDS), ready)
    panic = _clamped(state.window.average(now, PANIC_WINDOW_SECONDS), ready)
    if panic >= PANIC_THRESHOLD * ready:
        state = replace(state, panic_since=now)
    elif state.panic_since is not None and now - state.panic_since >= STABLE_WINDOW_SECONDS:
        state = replace(state, panic_since=None)
    if state.panic_since is None:
        return state, stable, Reason.STABLE
    wanted = max(stable, panic)
    if wanted > state.replicas:
        return state, wanted, Reason.PANIC
    return state, state.replicas, Reason.HOLDING


def _clamped(load: float, ready: int) -> int:
    least = math.floor(ready / MAX_SCALE_DOWN_RATE)
    most = math.ceil(ready * MAX_SCALE_UP_RATE)
    return min(max(math.ceil(load), least), most)


def _decision(policy: ScalePolicy, state: ScaleState, sample: Sample, needed: int, reason: Reason) -> Decision:
    replicas = min(max(needed, policy.min_replicas), policy.max_replicas)
    if needed < policy.min_replicas:
        reason = Reason.MINIMUM
    free_capacity = sample.ready_replicas * policy.replica_capacity - sample.requests
    return Decision(
        replicas=replicas,
        reason=reason,
        state=replace(state, replicas=replicas),
        needed=needed,
        burst_capacity=free_capacity - TARGET_BURST_CAPACITY,
    )
