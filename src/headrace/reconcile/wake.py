"""The last wake from zero, stage by stage, for `status.lastColdStart`."""

from __future__ import annotations

from dataclasses import dataclass, replace

from headrace.reconcile.conditions import timestamp
from headrace.reconcile.pods import RuntimePod
from headrace.reconcile.world import Manifest, Signals


@dataclass(frozen=True, slots=True)
class Wake:
    """Times on the monotonic clock; `wall` is when it was asked for."""

    asked: float
    wall: float
    spoke: float | None = None
    ready: float | None = None


def watch_wake(
    wake: Wake | None, before: int, replicas: dict[str, int], pods: tuple[RuntimePod, ...], signals: Signals
) -> Wake | None:
    """Return what to remember: a wake begins when replicas leave zero, and ends when a pod is routable."""
    if before == 0 and sum(replicas.values()) > 0 and not pods:
        return Wake(signals.now, signals.wall)
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
        "podMilliseconds": round((spoke - wake.asked) * 1000),
        "readyMilliseconds": round((wake.ready - wake.asked) * 1000),
    }
