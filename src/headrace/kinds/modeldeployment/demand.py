"""How many replicas are wanted: `suspend`, `replicas` and `scaling`, in that order of power."""

from __future__ import annotations

from dataclasses import dataclass

from headrace.api import vocabulary as v
from headrace.kinds.modeldeployment.resource import ModelDeployment
from headrace.kinds.modeldeployment.spec import ConcurrencyMetric, QueueDelayMetric, Scaling, Spec
from headrace.reconcile.conditions import Condition, counted
from headrace.reconcile.world import Signals
from headrace.routes import Unavailable
from headrace.scaling.autoscaler import Decision, Reason, Sample, ScalePolicy, ScaleState, decide, start

REFUSED_RETRY_SECONDS = 60
"""A model that somebody switched off comes back when somebody switches it on: hurrying is of no use."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """How many replicas, and what that means for requests."""

    replicas: int
    condition: Condition
    """ScalingActive."""
    off: Unavailable | None = None
    """Set when requests must be refused rather than held."""
    scale: ScaleState | None = None
    """The autoscaler's memory, when it rules."""
    scaled: str = ""
    """What the autoscaler just changed and why; empty when it changed nothing."""
    seconds_to_idle: float | None = None


@dataclass(frozen=True, slots=True)
class Replicas:
    """What there is of the model now, for the autoscaler."""

    existing: int
    """How many there are to be so far: where an autoscaler without a memory starts."""
    ready: int
    """Those that take requests."""
    activating: int
    """Those that may still become ready for the first time (`headrace.kinds.modeldeployment.startup`)."""
    last_activation: float
    """When one last became ready for the first time, on the monotonic clock."""


def wanted_replicas(
    resource: ModelDeployment, replicas: Replicas, signals: Signals, scale: ScaleState | None
) -> Wanted:
    """Return how many replicas are wanted.

    Args:
        resource: the resource.
        replicas: what there is.
        signals: demand, by gateway.
        scale: the autoscaler's memory; None after a restart.
    """
    spec = resource.spec
    if spec.suspend:
        off = _refusal(v.SUSPENDED, "it is suspended (set spec.suspend: false to start it)")
        return Wanted(0, _inactive("spec.suspend is true"), off)
    if spec.scaling is None:
        inactive = _inactive("spec.scaling is not set: spec.replicas applies")
        if spec.replicas == 0:
            message = "it is scaled to zero (set spec.replicas: 1 to start it)"
            return Wanted(0, inactive, _refusal(v.SCALED_TO_ZERO, message))
        return Wanted(spec.replicas, inactive)
    state = scale or start(replicas.existing, signals.now)
    decision = decide(_policy(spec, spec.scaling), state, _sample(signals, replicas), signals.now)
    return Wanted(
        replicas=decision.replicas,
        condition=_active(spec.scaling, decision, signals),
        scale=decision.state,
        scaled=_change(state.replicas, decision, spec.scaling),
        seconds_to_idle=decision.seconds_to_idle,
    )


def _sample(signals: Signals, replicas: Replicas) -> Sample:
    return Sample(
        queued=sum(demand.queued for demand in signals.demand.values()),
        in_flight=sum(demand.in_flight for demand in signals.demand.values()),
        queue_delay_milliseconds=max((d.queue_delay_milliseconds for d in signals.demand.values()), default=0.0),
        ready_replicas=replicas.ready,
        activating_replicas=replicas.activating,
        last_activation=replicas.last_activation,
        fresh=signals.connected and bool(signals.gateways),
    )


def _policy(spec: Spec, scaling: Scaling) -> ScalePolicy:
    metric = scaling.metric
    if metric.type == "Concurrency":
        target = float((metric.concurrency or ConcurrencyMetric()).target)
    else:
        target = float((metric.queue_delay or QueueDelayMetric()).target_milliseconds)
    return ScalePolicy(
        min_replicas=scaling.min_replicas,
        max_replicas=scaling.max_replicas,
        metric=metric.type,
        target=target,
        idle_timeout_seconds=float(scaling.idle_timeout_seconds),
        replica_capacity=spec.runtime.profile.capacity,
    )


def _change(before: int, decision: Decision, scaling: Scaling) -> str:
    if before == decision.replicas:
        return ""
    idle = decision.reason is Reason.IDLE
    why = f"idle for {scaling.idle_timeout_seconds} s" if idle else str(decision.reason)
    return f"from {before} to {counted(decision.replicas, 'replica')}: {why}"


def _active(scaling: Scaling, decision: Decision, signals: Signals) -> Condition:
    """Its message names no figures that change with each request: a status is not a graph."""
    if decision.reason is Reason.STALE:
        who = "no gateway is connected" if signals.connected else "NATS is unreachable"
        message = f"{who}: demand is unknown, so replicas stay as they are"
        return Condition(v.SCALING_ACTIVE, "False", v.SIGNALS_STALE, message)
    if decision.needed > scaling.max_replicas:
        at_most = f"demand asks for more than the {decision.replicas} that spec.scaling.maxReplicas allows"
        return Condition(v.SCALING_ACTIVE, "True", v.AT_MAXIMUM, at_most)
    message = f"between {scaling.min_replicas} and {scaling.max_replicas} replicas, by {scaling.metric.type}"
    return Condition(v.SCALING_ACTIVE, "True", v.FOLLOWING_DEMAND, message)


def _inactive(message: str) -> Condition:
    return Condition(v.SCALING_ACTIVE, "False", v.DISABLED, message)


def _refusal(reason: str, message: str) -> Unavailable:
    return Unavailable(reason=reason, message=message, retry_after_seconds=REFUSED_RETRY_SECONDS)
