"""Stages of the last cold start, for `status.lastColdStart`."""

from __future__ import annotations

from dataclasses import dataclass, replace

from headrace.kinds.modeldeployment.pods import RuntimePod
from headrace.reconcile.conditions import timestamp
from headrace.reconcile.world import Manifest, Signals


@dataclass(frozen=True, slots=True)
class Wake:
    """A cold start; times are monotonic, and `wall` is the Unix time of its beginning."""

    began: float
    wall: float
    queued_milliseconds: float
    """Age of the oldest queued request at the beginning."""
    reported: float | None = None
    """Time of the first report of the runtime."""
    ready: float | None = None
    """Time at which a pod became routable."""
    pod: str = ""
    """This pod."""
    stages: tuple[tuple[str, int], ...] = ()
    """The stages of its start that it reported, in milliseconds; the last one, first-token, ends after `ready`."""


def watch_wake(
    wake: Wake | None, existing: int, desired: int, pods: tuple[RuntimePod, ...], signals: Signals
) -> Wake | None:
    """Return the state of the cold start: it begins when replicas leave zero, and ends when a pod is routable.

    Args:
        wake: the state of the previous pass.
        existing: desired replicas of the observed Deployments.
        desired: desired replicas of this pass.
        pods: the runtime pods.
        signals: the time and the demand.
    """
    if desired == 0:
        return wake if wake is not None and wake.ready is not None else None
    if existing == 0 and not pods and (wake is None or wake.ready is not None):
        queued = max((demand.queue_delay_milliseconds for demand in signals.demand.values()), default=0.0)
        return Wake(signals.now, signals.wall, queued)
    if wake is None:
        return wake
    if wake.ready is not None:
        report = next((pod.report for pod in pods if pod.name == wake.pod), None)
        stages = () if report is None else tuple(report.stages.items())
        # A restarted process reports other times.
        return replace(wake, stages=stages) if stages[: len(wake.stages)] == wake.stages else wake
    if wake.reported is None and any(pod.report is not None for pod in pods):
        wake = replace(wake, reported=signals.now)
    if (first := next((pod for pod in pods if pod.routable), None)) is not None:
        stages = () if first.report is None else tuple(first.report.stages.items())
        wake = replace(wake, ready=signals.now, pod=first.name, stages=stages)
    return wake


def cold_start_status(wake: Wake | None) -> Manifest | None:
    """Return `status.lastColdStart`; None before the cold start has ended."""
    if wake is None or wake.ready is None:
        return None
    reported = wake.reported if wake.reported is not None else wake.ready
    return {
        "startTime": timestamp(wake.wall),
        "queuedMilliseconds": round(wake.queued_milliseconds),
        "podMilliseconds": round((reported - wake.began) * 1000),
        "readyMilliseconds": round((wake.ready - wake.began) * 1000),
        "stages": [{"name": name, "milliseconds": milliseconds} for name, milliseconds in wake.stages],
    }
