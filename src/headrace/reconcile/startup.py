"""The startup deadline: how long a pod may take without getting anywhere.

A pod that reports a new stage or another percentage is getting somewhere, and the count starts anew; one that waits for
room on a node has not begun. When a pod exceeds the deadline and no other of its revision serves, the revision is given
up: its pods go, requests are refused with the cause, and after a pause it tries again. At zero everything is forgotten:
the next wake is a fresh attempt.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from headrace.api import vocabulary as v
from headrace.reconcile.pods import Failure, RuntimePod

PAUSE_SECONDS = 60.0
"""Between giving a revision up and trying again: long enough to be read, short enough to heal by itself."""

Mark = tuple[str, int]
"""How far a pod is: stage, percent. Restarts are no progress."""


@dataclass(frozen=True, slots=True)
class StartupWatch:
    """What is remembered of starting pods, on the monotonic clock."""

    since: Mapping[str, tuple[Mark, float]] = field(default_factory=dict)
    """By pod: how far it was, and since when."""
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


def watch_startup(
    watch: StartupWatch, revision: str, pods: tuple[RuntimePod, ...], now: float, deadline_seconds: float
) -> StartupWatch:
    """Return what to remember after a look at the pods."""
    mine = [pod for pod in pods if pod.revision == revision]
    starting = [pod for pod in mine if (not pod.serving or pod.fault) and not _waits(pod)]
    serves = any(pod.serving for pod in mine)
    since = {pod.name: _since(watch, pod, now) for pod in starting}
    overdue = next((pod for pod in starting if now - since[pod.name][1] > deadline_seconds), None)
    if overdue is None:
        if serves or watch.given_up != revision:
            return StartupWatch(since)
        return replace(watch, since=since)
    failure = Failure(v.STARTUP_DEADLINE_EXCEEDED, _why(overdue, since[overdue.name][0], deadline_seconds))
    if serves:
        return StartupWatch(since, revision, failure, now)  # told, but what serves is not taken down for it
    return StartupWatch({}, revision, failure, now + PAUSE_SECONDS)


def _why(pod: RuntimePod, mark: Mark, deadline_seconds: float) -> str:
    over = f"the runtime was not ready after {deadline_seconds:.0f} s without progress"
    cause = pod.failure.message if pod.failure is not None else pod.fault
    if cause:
        return f"{over}: {cause}"
    hint = "See its log, or raise spec.rollout.startupDeadlineSeconds"
    ended = f". It ended before {pod.ended}" if pod.ended else ""
    return f"{over} (stage: {mark[0] or 'starting its process'}){ended}. {hint}"


def _waits(pod: RuntimePod) -> bool:
    return pod.failure is not None and pod.failure.waiting


def _since(watch: StartupWatch, pod: RuntimePod, now: float) -> tuple[Mark, float]:
    report = pod.report
    mark = ("", 0) if report is None else (report.stage or report.state.value, report.percent or 0)
    known = watch.since.get(pod.name)
    return known if known is not None and known[0] == mark else (mark, now)
