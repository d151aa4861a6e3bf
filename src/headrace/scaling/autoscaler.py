"""When to add and remove replicas of a ModelDeployment.

The rule is Knative's KPA on LLM signals. Two windows average the same load: the *stable* window (60 s) decides in calm;
the *panic* window (6 s) takes over when it asks for at least twice the ready replicas, and from then until a whole
stable window has passed without such a burst the number never shrinks. Pure: time and signals come in as arguments, a
decision goes out.

    desired = ceil(load)        clamped to [ready / 2, ready * 1000], then to [min, max]

Load is in replicas' worth of work. For Concurrency it is requests (held and running) over the target; for QueueDelay it
is the ready replicas times the delay over its target, so that a doubled delay asks for doubled replicas; and never less
than what the running requests fill, because where there is just enough room nobody waits, and everybody is busy.

Utilisation: Knative aims at 70 % of a *limit*. Our target is already an aim (`maxConcurrentRequests` is the limit, by
default twice the target), so it is used as it stands; whoever wants more headroom writes a lower target.

From zero: one held request is enough, at once. To zero: only after `idle_timeout_seconds` without any request, and
then at once, whatever the windows say. A rule that has just (re)started, or that could not hear anybody for a while,
does not know what went on: it counts activity from now and begins in panic, so that it may grow at once but shrinks
only after a stable window of its own.

A replica is *activating* until it was ready once, fails, or exceeds its startup deadline; the caller counts them. While
there are any, nothing shrinks: a client that gives up and retries would otherwise start one replica after another and
get no answer from any. The idle timeout therefore also counts from when a replica became ready for the first time.
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
"""Panic when the short window asks for this many times the ready replicas."""
MAX_SCALE_UP_RATE = 1000.0
MAX_SCALE_DOWN_RATE = 2.0
"""At most to half in one decision: the requests of a removed replica must fit into the rest."""
TARGET_BURST_CAPACITY = 211
"""Requests that may arrive at once without being held, Knative's default; what `Decision.burst_capacity` is against."""


class Reason(StrEnum):
    """Why a decision is as it is; goes into events as it stands."""

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
    """What the resource asks for."""

    min_replicas: int
    max_replicas: int
    metric: Literal["Concurrency", "QueueDelay"]
    target: float
    """Concurrency: requests per replica. QueueDelay: milliseconds."""
    idle_timeout_seconds: float
    replica_capacity: int
    """Requests that one replica works on at the same time: its limit, where the target is the aim."""


@dataclass(frozen=True, slots=True)
class Sample:
    """What is measured now, over all gateways."""

    queued: int
    in_flight: int
    queue_delay_milliseconds: float
    ready_replicas: int
    activating_replicas: int = 0
    """Replicas that may still become ready for the first time."""
    last_activation: float = -math.inf
    """When a replica last became ready for the first time (monotonic seconds)."""
    fresh: bool = True
    """False while the senders cannot be heard: silence then means nothing."""

    @property
    def requests(self) -> int:
        """Requests held and running."""
        return self.queued + self.in_flight


@dataclass(frozen=True, slots=True)
class ScaleState:
    """What the rule remembers between decisions."""

    replicas: int
    """The last decision."""
    last_active: float
    """When a request was last seen, a replica became ready for the first time, or either could have been missed."""
    window: Window = field(default_factory=Window)
    panic_since: float | None = None
    """When the panic window last asked for more, or nothing was known; None when calm."""


@dataclass(frozen=True, slots=True)
class Decision:
    """How many replicas there should be, why, and what to remember."""

    replicas: int
    reason: Reason
    state: ScaleState
    asked: int
    """What the demand asks for, before the resource's bounds."""
    burst_capacity: int
    """Requests that could arrive at once beyond the target burst before any is held; negative when some would be."""
    seconds_to_idle: float | None = None
    """When the idle timeout could end; None while there is demand, or at the minimum that idling leads to."""


def start(replicas: int, now: float) -> ScaleState:
    """Return the state of a rule that starts now beside `replicas` existing ones: activity counts from now."""
    return ScaleState(replicas=replicas, last_active=now, panic_since=now if replicas else None)


def decide(policy: ScalePolicy, state: ScaleState, sample: Sample, now: float) -> Decision:
    """Return how many replicas there should be at `now` (monotonic seconds)."""
    if not sample.fresh:
        # What was measured before the silence says nothing about the time after it.
        blind = start(state.replicas, now)
        return _decision(policy, blind, sample, max(state.replicas, policy.min_replicas), Reason.STALE)
    state = replace(state, last_active=now if sample.requests else max(state.last_active, sample.last_activation))
    if not sample.requests and (state.replicas == 0 or _is_idle(policy, state, sample, now)):
        rested = replace(state, window=Window(), panic_since=None)
        return _decision(policy, rested, sample, 0, Reason.IDLE)
    load = _load(policy, sample)
    state = replace(state, window=state.window.with_sample(now, load, keep_seconds=STABLE_WINDOW_SECONDS))
    if state.replicas == 0:
        return _decision(policy, state, sample, max(1, math.ceil(load)), Reason.WOKEN)
    state, wanted, reason = _from_windows(state, sample, now)
    if sample.activating_replicas and wanted < state.replicas:
        # None at all is removed: a Deployment removes replicas that are not ready first.
        wanted, reason = state.replicas, Reason.ACTIVATING
    # The last replica goes by the idle timeout alone, whatever the averages say.
    decision = _decision(policy, state, sample, max(wanted, 1), reason)
    if sample.requests or sample.activating_replicas or policy.min_replicas:
        return decision
    return replace(decision, seconds_to_idle=_idle_left(policy, state, now))


def _is_idle(policy: ScalePolicy, state: ScaleState, sample: Sample, now: float) -> bool:
    return policy.min_replicas == 0 and not sample.activating_replicas and _idle_left(policy, state, now) <= 0


def _idle_left(policy: ScalePolicy, state: ScaleState, now: float) -> float:
    return state.last_active + policy.idle_timeout_seconds - now


def _load(policy: ScalePolicy, sample: Sample) -> float:
    """Return the demand in replicas' worth of work."""
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


def _decision(policy: ScalePolicy, state: ScaleState, sample: Sample, asked: int, reason: Reason) -> Decision:
    replicas = min(max(asked, policy.min_replicas), policy.max_replicas)
    if asked < policy.min_replicas:
        reason = Reason.MINIMUM
    room = sample.ready_replicas * policy.replica_capacity - sample.requests
    return Decision(
        replicas=replicas,
        reason=reason,
        state=replace(state, replicas=replicas),
        asked=asked,
        burst_capacity=room - TARGET_BURST_CAPACITY,
    )
