"""How pods start: the startup deadline, and which replicas are activating.

A pod that reports a new stage or another percentage makes progress, and the count starts anew; one that waits for
room on a node has not begun. When a pod exceeds the deadline and no other of its revision serves, the revision is given
up: its pods go, requests are refused with the cause, and after a pause it tries again. At zero everything is forgotten:
the next wake is a fresh attempt.

A replica is activating until it was ready once, fails, or its startup deadline has passed; the autoscaler removes none
of these. That a pod was ready is read off its readiness gate, so a restart of the loop does not lose it; the deadline
then counts anew.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from headrace.api import vocabulary as v
from headrace.kinds.modeldeployment.pods import Failure, RuntimePod

PAUSE_SECONDS = 60.0
"""Between giving a revision up and trying again: long enough to be read, short enough to heal by itself."""

Mark = tuple[str, int]
"""How far a pod is: stage, percent. Restarts are no progress."""


@dataclass(frozen=True, slots=True)
class StartupWatch:
    """What is remembered of starting pods, on the monotonic clock."""

    since: Mapping[str, tuple[Mark, float]] = field(default_factory=dict)
    """By pod: how far it was, and since when."""
    ready: frozenset[str] = frozenset()
    """Pods that were ready once."""
    last_activation: float = -math.inf
    """When a pod last became ready for the first time."""
    given_up: str | None = None
    """The revision that exceeded its deadline."""
    why: Failure | None = None
    until: float = 0.0

    def failure(self, revision: str) -> Failure | None:
        """Return why the revision was given up, while the pause lasts and until it gets further."""
        return self.why if self.given_up == revision else None

    def may_start(self, revision: str, now: float) -> bool:
        """Whether the revision may have pods now."""
        return self.given_up != revision or now >= self.until

    def activating(self, pods: tuple[RuntimePod, ...], now: float, deadline_seconds: float) -> int:
        """Return how many pods may still become ready for the first time.

        Those that wait for room count only where no other replica was ready: beside one, they hold nothing up.
        """
        candidates = [
            pod
            for pod in pods
            if pod.name not in self.ready
            and (pod.failure is None or pod.failure.waiting)
            and self.may_start(pod.revision, now)
            and now - self.since[pod.name][1] <= deadline_seconds
        ]
        begun = sum(not _waits(pod) for pod in candidates)
        return begun if begun or self.ready else len(candidates)


def watch_startup(
    watch: StartupWatch, revision: str, pods: tuple[RuntimePod, ...], now: float, deadline_seconds: float
) -> StartupWatch:
    """Return what to remember after a pass: of the pods of all revisions, and whether this one is given up."""
    starting = [pod for pod in pods if not pod.serving or pod.fault]
    since = {pod.name: _since(watch, pod, now) for pod in starting}
    ready = frozenset(pod.name for pod in pods if pod.was_ready or pod.name in watch.ready)
    last_activation = now if ready - watch.ready else watch.last_activation
    seen = replace(watch, since=since, ready=ready, last_activation=last_activation)
    serves = any(pod.serving and pod.revision == revision for pod in pods)
    late = (pod for pod in starting if now - since[pod.name][1] > deadline_seconds)
    overdue = next((pod for pod in late if pod.revision == revision and not _waits(pod)), None)
    if overdue is None:
        recovered = serves or watch.given_up != revision
        return replace(seen, given_up=None, why=None, until=0.0) if recovered else seen
    failure = Failure(v.STARTUP_DEADLINE_EXCEEDED, _why(overdue, since[overdue.name][0], deadline_seconds))
    if serves:
        return replace(seen, given_up=revision, why=failure, until=now)  # what serves is not taken down for it
    others = {pod.name: since[pod.name] for pod in starting if pod.revision != revision}
    return replace(seen, since=others, given_up=revision, why=failure, until=now + PAUSE_SECONDS)


def _why(pod: RuntimePod, mark: Mark, deadline_seconds: float) -> str:
    over = f"the runtime was not ready after {deadline_seconds:.0f} s without progress"
    cause = pod.failure.message if pod.failure is not None else pod.fault
    if cause:
        return f"{over}: {cause}"
    hint = "See its log, or raise spec.rollout.startupDeadlineSeconds"
    ended = f". It exited before {pod.ended}" if pod.ended else ""
    return f"{over} (stage: {mark[0] or 'starting its process'}){ended}. {hint}"


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
