"""Number of desired replicas. `suspend` takes precedence over `scaling`, and `scaling` over `replicas`."""

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
"""Retry-After of a suspended model: only a change of the spec starts it, so early retries are useless."""


@dataclass(frozen=True, slots=True)
class DesiredReplicas:
    """The number of replicas, the condition ScalingActive, and the state of the autoscaler."""

    replicas: int
    condition: Condition
    """ScalingActive."""
    rejection: Unavailable | None = None
    """Set if requests are rejected, not queued."""
    scale: ScaleState | None = None
    """State of the autoscaler; None if it is not active."""
    scaled: str = ""
    """Change by the autoscaler in this pass, with the reason; empty without a change."""
    seconds_to_idle: float | None = None


@dataclass(frozen=True, slots=True)
class ReplicaCounts:
    """Observed replicas, as input of the autoscaler."""

    existing: int
    """Desired replicas so far: the initial state of an autoscaler that has none."""
    ready: int
    """Replicas that receive requests."""
    activating: int
    """Replicas that may still become ready for the first time (`headrace.kinds.modeldeployment.startup`)."""
    last_activation: float
    """Monotonic time at which a replica last became ready for the first time."""


def desired_replicas(
    resource: ModelDeployment, replicas: ReplicaCounts, signals: Signals, scale: ScaleState | None
) -> DesiredReplicas:
    """Return the number of desired replicas.

    Args:
        resource: the resource.
        replicas: the observed replicas.
        signals: demand, by gateway.
        scale: the state of the autoscaler; None after a restart.
    """
    spec = resource.spec
    if spec.suspend:
        rejection = _rejection(v.SUSPENDED, "it is suspended (set spec.suspend: false to start it)")
        return DesiredReplicas(0, _inactive("spec.suspend is true"), rejection)
    if spec.scaling is None:
        inactive = _inactive("spec.scaling is not set: spec.replicas applies")
        if spec.replicas == 0:
            message = "it is scaled to zero (set spec.replicas: 1 to start it)"
            return DesiredReplicas(0, inactive, _rejection(v.SCALED_TO_ZERO, message))
        return DesiredReplicas(spec.replicas, inactive)
    state = scale or start(replicas.existing, signals.now)
    decision = decide(_policy(spec, spec.scaling), state, _sample(signals, replicas), signals.now)
    return DesiredReplicas(
        replicas=decision.replicas,
        condition=_active(spec.scaling, decision, signals),
        scale=decision.state,
        scaled=_change(state.replicas, decision, spec.scaling),
        seconds_to_idle=decision.seconds_to_idle,
    )


def _sample(signals: Signals, replicas: ReplicaCounts) -> Sample:
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
    """Return ScalingActive. Its message has no figures that change with each request, to bound status writes."""
    if decision.reason is Reason.STALE:
        cause = "no gateway is connected" if signals.connected else "NATS is unreachable"
        message = f"{cause}: demand is unknown, so the number of replicas is not changed"
        return Condition(v.SCALING_ACTIVE, "False", v.SIGNALS_STALE, message)
    if decision.needed > scaling.max_replicas:
        at_most = f"demand exceeds the capacity of {decision.replicas} replicas, the limit of spec.scaling.maxReplicas"
        return Condition(v.SCALING_ACTIVE, "True", v.AT_MAXIMUM, at_most)
    message = f"between {scaling.min_replicas} and {scaling.max_replicas} replicas, by {scaling.metric.type}"
    return Condition(v.SCALING_ACTIVE, "True", v.FOLLOWING_DEMAND, message)


def _inactive(message: str) -> Condition:
    return Condition(v.SCALING_ACTIVE, "False", v.DISABLED, message)


def _rejection(reason: str, message: str) -> Unavailable:
    return Unavailable(reason=reason, message=message, retry_after_seconds=REFUSED_RETRY_SECONDS)
