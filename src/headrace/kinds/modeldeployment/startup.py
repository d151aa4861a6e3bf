"""Startup of pods: the startup deadline, and the activating replicas.

The deadline of a pod starts again when the pod reports a new stage or percentage. It does not run while the pod waits
for capacity. When a pod exceeds the deadline and no other pod of its revision serves, the revision is paused: its pods
are deleted, requests are rejected with the cause, and it starts again after the pause. Scaling to zero resets this
state, so the next cold start is a new attempt.

A replica is activating until it has been ready once, fails, or exceeds its deadline; the autoscaler does not remove
activating replicas. The readiness gate shows that a pod was ready, so a restart of the loop does not lose this; the
deadline starts again.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from headrace.api import vocabulary as v
from headrace.kinds.modeldeployment.pods import Failure, RuntimePod

PAUSE_SECONDS = 60.0
"""Pause between the deadline and the next start: long enough to read the cause, short enough to recover unattended."""

Mark = tuple[str, int]
"""Progress of a pod: stage and percent. A restart is not progress."""


@dataclass(frozen=True, slots=True)
class StartupWatch:
    """State of starting pods between passes; times are monotonic."""

    since: Mapping[str, tuple[Mark, float]] = field(default_factory=dict)
    """Progress of each pod, with the time of its last change."""
    ready: frozenset[str] = frozenset()
    """Pods that have been ready."""
    last_activation: float = -math.inf
    """Time at which a pod last became ready for the first time."""
    paused: str | None = None
    """Revision that exceeded its deadline."""
    cause: Failure | None = None
    until: float = 0.0
    """End of the pause."""

    def failure(self, revision: str) -> Failure | None:
        """Return why the revision was paused; None once it has made progress since."""
        return self.cause if self.paused == revision else None

    def may_start(self, revision: str, now: float) -> bool:
        """Whether the revision may have pods now."""
        return self.paused != revision or now >= self.until

    def activating(self, pods: tuple[RuntimePod, ...], now: float, deadline_seconds: float) -> int:
        """Return the number of pods that may still become ready for the first time.

        Pods that wait for capacity count only if no other replica has been ready.
        """
        candidates = [
            pod
            for pod in pods
            if pod.name not in self.ready
            and (pod.failure is None or pod.failure.waiting)
            and self.may_start(pod.revision, now)
            and now - self.since[pod.name][1] <= deadline_seconds
        ]
        starting = sum(not _waits(pod) for pod in candidates)
        return starting if starting or self.ready else len(candidates)


def watch_startup(
    watch: StartupWatch, revision: str, pods: tuple[RuntimePod, ...], now: float, deadline_seconds: float
) -> StartupWatch:
    """Return the state after a pass: the progress of all pods, and whether this revision is paused."""
    starting = [pod for pod in pods if not pod.serving or pod.fault]
    since = {pod.name: _since(watch, pod, now) for pod in starting}
    ready = frozenset(pod.name for pod in pods if pod.was_ready or pod.name in watch.ready)
    last_activation = now if ready - watch.ready else watch.last_activation
    seen = replace(watch, since=since, ready=ready, last_activation=last_activation)
    serves = any(pod.serving and pod.revision == revision for pod in pods)
    late = (pod for pod in starting if now - since[pod.name][1] > deadline_seconds)
    overdue = next((pod for pod in late if pod.revision == revision and not _waits(pod)), None)
    if overdue is None:
        recovered = serves or watch.paused != revision
        return replace(seen, paused=None, cause=None, until=0.0) if recovered else seen
    failure = Failure(v.STARTUP_DEADLINE_EXCEEDED, _message(overdue, since[overdue.name][0], deadline_seconds))
    if serves:
        return replace(seen, paused=revision, cause=failure, until=now)  # serving pods are kept
    others = {pod.name: since[pod.name] for pod in starting if pod.revision != revision}
    return replace(seen, since=others, paused=revision, cause=failure, until=now + PAUSE_SECONDS)


def _message(pod: RuntimePod, mark: Mark, deadline_seconds: float) -> str:
    exceeded = f"the runtime was not ready after {deadline_seconds:.0f} s without progress"
    fault = pod.failure.message if pod.failure is not None else pod.fault
    if fault:
        return f"{exceeded}: {fault}"
    hint = "See its log, or raise spec.rollout.startupDeadlineSeconds"
    last_exit = f". It previously exited {pod.last_exit}" if pod.last_exit else ""
    return f"{exceeded} (stage: {mark[0] or 'starting its process'}){last_exit}. {hint}"


def _waits(pod: RuntimePod) -> bool:
    return pod.failure is not None and pod.failure.waiting


def _since(watch: StartupWatch, pod: RuntimePod, now: float) -> tuple[Mark, float]:
    report = pod.report
    if _waits(pod):
        mark = (v.UNSCHEDULABLE, 0)
    else:
        mark = ("", 0) if report is None else (report.stage or report.state.value, report.percent or 0)
    known = watch.since.get(pod.name)
    return known if known is not None and known[0] == mark else (mark, now)
