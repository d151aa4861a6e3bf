"""The last wake from zero, stage by stage, for `status.lastColdStart`."""

from __future__ import annotations

from dataclasses import dataclass, replace

from headrace.kinds.modeldeployment.pods import RuntimePod
from headrace.reconcile.conditions import timestamp
from headrace.reconcile.world import Manifest, Signals


@dataclass(frozen=True, slots=True)
class Wake:
    """Times on the monotonic clock; `wall` is when it was asked for."""

    asked: float
    wall: float
    queued_milliseconds: float
    """How long the oldest request had waited by then."""
    spoke: float | None = None
    ready: float | None = None


def watch_wake(
    wake: Wake | None, existing: int, wanted: int, pods: tuple[RuntimePod, ...], signals: Signals
) -> Wake | None:
    """Return what to remember: a wake begins when replicas leave zero, and ends when a pod is routable.

    Args:
        wake: what was remembered.
        existing: replicas that the Deployments ask for now.
        wanted: replicas that they will ask for.
        pods: the runtime pods.
        signals: the time, and who was heard.
    """
    if wanted == 0:
        return wake if wake is not None and wake.ready is not None else None
    if existing == 0 and not pods and (wake is None or wake.ready is not None):
        queued = max((demand.queue_delay_milliseconds for demand in signals.demand.values()), default=0.0)
        return Wake(signals.now, signals.wall, queued)
    if wake is None or wake.ready is not None:
        return wake
    if wake.spoke is None and any(pod.report is not None for pod in pods):
        wake = replace(wake, spoke=signals.now)
    if any(pod.routable for pod in pods):
        wake = replace(wake, ready=signals.now)
    return wake


def cold_start_status(wake: Wake | None) -> Manifest | None:
    """Return the finished wake as it is written into the status."""
    if wake is None or wake.ready is None:
        return None
    spoke = wake.spoke if wake.spoke is not None else wake.ready
    return {
        "startTime": timestamp(wake.wall),
        "queuedMilliseconds": round(wake.queued_milliseconds),
        "podMilliseconds": round((spoke - wake.asked) * 1000),
        "readyMilliseconds": round((wake.ready - wake.asked) * 1000),
    }
