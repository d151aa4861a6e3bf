"""When to add and remove replicas of a ModelDeployment.

The rule is Knative's KPA on LLM signals. Two windows average the same metric: the *stable* window (60 s) decides in
calm; the *panic* window (6 s) takes over when it asks for at least twice the ready replicas, and while it rules, and
for one stable window after, the number never shrinks. Pure: time and signals come in as arguments, a decision goes out.

    desired = ceil(load / target per replica)   clamped to [ready / 2, ready * 1000], then to [min, max]

Load is in units of one replica's work. For Concurrency it is requests (held and running) over the target; for
QueueDelay it is the ready replicas times the delay over its target, so that a doubled delay asks for doubled replicas.

From zero: one held request is enough, at once. To zero: only after `idle_timeout_seconds` without any request, counted
from the last one seen; a rule that has just (re)started counts from its start, so it never drops what it does not know.
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


class Reason(StrEnum):
    """Why a decision is as it is; goes into events as it stands."""

    WOKEN = "a request is waiting"
    IDLE = "nobody asked for the idle timeout"
    STABLE = "average demand of the last minute"
    PANIC = "demand doubled within seconds"
    STALE = "signals are stale, so nothing shrinks"


@dataclass(frozen=True, slots=True)
class ScalePolicy:
    """What the resource asks for."""

    min_replicas: int
    max_replicas: int
    metric: Literal["Concurrency", "QueueDelay"]
    target: float
    """Concurrency: requests per replica. QueueDelay: milliseconds."""
    idle_timeout_seconds: float


@dataclass(frozen=True, slots=True)
class Sample:
    """What is measured now, over all gateways."""

    queued: int
    in_flight: int
    queue_delay_milliseconds: float
    ready_replicas: int
    fresh: bool = True
    """False while the senders cannot be heard: silence then means nothing."""


@dataclass(frozen=True, slots=True)
class ScaleState:
    """What the rule remembers between decisions."""

    replicas: int
    """The last decision."""
    last_demand: float
    """When a request was last seen, or when the rule started."""
    window: Window = field(default_factory=Window)
    panic_since: float | None = None
    """When the panic window last asked for more; None when calm."""


@dataclass(frozen=True, slots=True)
class Decision:
    """How many replicas there should be, why, and what to remember."""

    replicas: int
    reason: Reason
    state: ScaleState
    seconds_to_idle: float | None = None
    """When to look again because the idle timeout could end; None while there is demand or nothing to remove."""


def start(replicas: int, now: float) -> ScaleState:
    """Return the state of a rule that starts now beside `replicas` existing ones: activity counts from now."""
    return ScaleState(replicas=replicas, last_demand=now)


def decide(policy: ScalePolicy, state: ScaleState, sample: Sample, now: float) -> Decision:
    """Return how many replicas there should be at `now` (monotonic seconds)."""
    demanded = sample.queued + sample.in_flight > 0
    if demanded or not sample.fresh:
        state = replace(state, last_demand=now)
    if not sample.fresh:
        return _decision(state, max(state.replicas, policy.min_replicas), Reason.STALE, policy)
    load = _load(policy, sample)
    state = replace(state, window=state.window.with_sample(now, load, keep_seconds=STABLE_WINDOW_SECONDS))
    idle_left = state.last_demand + policy.idle_timeout_seconds - now
    if not demanded and idle_left <= 0:
        idle = replace(state, window=Window(), panic_since=None)
        return _decision(idle, policy.min_replicas, Reason.IDLE, policy)
    if state.replicas == 0 and demanded:
        return _decision(state, max(1, math.ceil(load)), Reason.WOKEN, policy)
    state, wanted, reason = _from_windows(state, sample, now)
    # The last replica goes by the idle timeout alone, whatever the averages say.
    decision = _decision(state, max(wanted, min(state.replicas, 1)), reason, policy)
    return replace(decision, seconds_to_idle=None if demanded or decision.replicas == 0 else idle_left)


def _load(policy: ScalePolicy, sample: Sample) -> float:
    """Return the demand in replicas' worth of work."""
    if policy.metric == "Concurrency":
        return (sample.queued + sample.in_flight) / policy.target
    if sample.queued + sample.in_flight == 0:
        return 0.0
    replicas = max(sample.ready_replicas, 1)
    # Work in flight without any delay is what the present replicas just carry; it may shrink by the delay's slack only.
    return replicas * sample.queue_delay_milliseconds / policy.target


def _from_windows(state: ScaleState, sample: Sample, now: float) -> tuple[ScaleState, int, Reason]:
    ready = max(sample.ready_replicas, 1)
    stable = _clamped(state.window.average(now, STABLE_WINDOW_SECONDS), ready)
    panic = _clamped(state.window.average(now, PANIC_WINDOW_SECONDS), ready)
    if panic >= PANIC_THRESHOLD * ready:
        state = replace(state, panic_since=now)
    if state.panic_since is not None and now - state.panic_since > STABLE_WINDOW_SECONDS:
        state = replace(state, panic_since=None)
    if state.panic_since is not None:
        return state, max(state.replicas, stable, panic), Reason.PANIC
    return state, stable, Reason.STABLE


def _clamped(load: float | None, ready: int) -> int:
    least = math.floor(ready / MAX_SCALE_DOWN_RATE)
    most = math.ceil(ready * MAX_SCALE_UP_RATE)
    return min(max(math.ceil(load or 0.0), least), most)


def _decision(state: ScaleState, wanted: int, reason: Reason, policy: ScalePolicy) -> Decision:
    replicas = min(max(wanted, policy.min_replicas), policy.max_replicas)
    return Decision(replicas, reason, replace(state, replicas=replicas))
