"""How many replicas are wanted: `suspend`, `replicas` and `scaling`, in that order of power."""

from __future__ import annotations

from dataclasses import dataclass

from headrace.api import vocabulary as v
from headrace.api.model_deployment import ConcurrencyMetric, QueueDelayMetric, Scaling
from headrace.api.validation import ModelDeployment
from headrace.reconcile.conditions import Condition
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
    reason: Reason | None = None
    """The autoscaler's, when it rules."""
    seconds_to_idle: float | None = None


def wanted_replicas(
    resource: ModelDeployment, existing: int, ready: int, signals: Signals, scale: ScaleState | None
) -> Wanted:
    """Return how many replicas are wanted.

    Args:
        resource: the resource.
        existing: replicas that its Deployments ask for now: where an autoscaler without a memory starts.
        ready: replicas that take requests.
        signals: demand, by gateway.
        scale: the autoscaler's memory; None after a restart.
    """
    spec = resource.spec
    if spec.suspend:
        off = _refusal(v.SUSPENDED, f"the model {resource.public_name} is suspended")
        return Wanted(0, _inactive("spec.suspend is true"), off)
    if spec.scaling is None:
        inactive = _inactive("spec.scaling is not set: spec.replicas rules")
        if spec.replicas == 0:
            return Wanted(0, inactive, _refusal(v.SCALED_TO_ZERO, f"the model {resource.public_name} is switched off"))
        return Wanted(spec.replicas, inactive)
    sample = _sample(signals, ready)
    decision = decide(_policy(spec.scaling), scale or start(existing, signals.now), sample, signals.now)
    return Wanted(
        replicas=decision.replicas,
        condition=_active(spec.scaling, decision),
        scale=decision.state,
        reason=decision.reason,
        seconds_to_idle=decision.seconds_to_idle,
    )


def _sample(signals: Signals, ready: int) -> Sample:
    return Sample(
        queued=sum(demand.queued for demand in signals.demand.values()),
        in_flight=sum(demand.in_flight for demand in signals.demand.values()),
        queue_delay_milliseconds=max((d.queue_delay_milliseconds for d in signals.demand.values()), default=0.0),
        ready_replicas=ready,
        fresh=signals.connected,
    )


def _policy(scaling: Scaling) -> ScalePolicy:
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
    )


def _active(scaling: Scaling, decision: Decision) -> Condition:
    if decision.reason is Reason.STALE:
        return Condition(v.SCALING_ACTIVE, "False", v.SIGNALS_STALE, "NATS is away: demand is unknown, nothing shrinks")
    if decision.replicas >= scaling.max_replicas > scaling.min_replicas:
        at_most = f"{decision.replicas} replicas, the most that spec.scaling.maxReplicas allows"
        return Condition(v.SCALING_ACTIVE, "True", v.AT_MAXIMUM, at_most)
    message = f"between {scaling.min_replicas} and {scaling.max_replicas} replicas, by {scaling.metric.type}"
    return Condition(v.SCALING_ACTIVE, "True", v.FOLLOWING_DEMAND, message)


def _inactive(message: str) -> Condition:
    return Condition(v.SCALING_ACTIVE, "False", v.DISABLED, message)


def _refusal(reason: str, message: str) -> Unavailable:
    return Unavailable(reason=reason, message=message, retry_after_seconds=REFUSED_RETRY_SECONDS)
