"""What one look at an accepted resource found out, for the modules that write it down."""

from __future__ import annotations

from dataclasses import dataclass

from headrace.api import vocabulary as v
from headrace.api.validation import ModelDeployment
from headrace.reconcile.demand import Wanted
from headrace.reconcile.deployments import deployments
from headrace.reconcile.pods import Failure, RuntimePod
from headrace.reconcile.refusals import is_taken, refusal_of, refusal_of_pods
from headrace.reconcile.rollout import Rollout, Way, never_surges
from headrace.reconcile.source import SourceState
from headrace.reconcile.startup import StartupWatch
from headrace.reconcile.world import Manifest, Observed, Signals

_FINAL = frozenset({v.CRASH_LOOP, v.OOM_KILLED, v.STARTUP_DEADLINE_EXCEEDED})
"""Failures of a revision rather than of what it needs (an image, room)."""


@dataclass(frozen=True, slots=True)
class Findings:
    """The facts and the decisions of one look."""

    resource: ModelDeployment
    before: Manifest
    """The status as it was."""
    signals: Signals
    listening: bool
    """Whether everybody had time to speak since the loop (re)started: before that, silence means nothing."""
    source: SourceState
    wanted: Wanted
    pods: tuple[RuntimePod, ...]
    rollout: Rollout
    startup: StartupWatch
    refused: Failure | None
    """Why the cluster does not take a child, or pods of the wanted revision."""
    failure: Failure | None
    """Why the wanted revision does not start."""
    stuck: Failure | None
    """Why the cluster does not let another revision be scaled or removed."""
    quota_full: bool
    """Whether pods of the wanted revision are refused for want of room in the namespace's quota."""
    lacking: float | None
    """Since when the wanted revision finds no room, on the monotonic clock."""
    start_failure: Failure | None
    """Why the wanted revision last could not start, until a start of this generation succeeds."""
    taken_back: str
    """The reason for which the wanted revision gets no requests as a canary any more; empty while it may."""

    @property
    def revision(self) -> str:
        """The wanted revision."""
        return self.rollout.target

    def serving(self, revision: str) -> int:
        """Pods of a revision that say that they are ready."""
        return sum(pod.serving and pod.revision == revision for pod in self.pods)

    def routable(self, revision: str) -> int:
        """Pods of a revision that every live gateway routes to."""
        return sum(pod.routable and pod.revision == revision for pod in self.pods)

    def taking(self, revision: str) -> int:
        """Pods of a revision that requests go to now and will go to: without those that are about to go."""
        return min(self.routable(revision), self.rollout.replicas.get(revision, 0))

    @property
    def taking_over(self) -> bool:
        """Whether requests still go to an old revision."""
        return self.rollout.serving != self.revision

    @property
    def stays_canary(self) -> bool:
        """Whether the wanted revision is a canary that has all that it is to have: its share, or its place at zero."""
        rollout = self.rollout
        return rollout.way is Way.CANARY and rollout.rolling and (rollout.share > 0 or self.wanted.replicas == 0)

    @property
    def makes_room(self) -> bool:
        """Whether the old revision gives way for want of room, and not because the spec says so."""
        return self.rollout.way is Way.REPLACE and not never_surges(self.resource.spec.rollout)


def is_canary(resource: ModelDeployment, revision: str, observed: Observed) -> bool:
    """Whether the revision is a canary: without another one there is nothing to be a canary of."""
    return resource.spec.rollout.type == "Canary" and bool(deployments(observed).keys() - {revision})


def why_failing(
    resource: ModelDeployment,
    revision: str,
    observed: Observed,
    pods: tuple[RuntimePod, ...],
    startup: StartupWatch,
    wall: float,
) -> Failure | None:
    """Return why a revision does not start: it is refused, was given up, or a pod of it fails.

    A canary that crashes has failed, whether or not it was ready in between.
    """
    look = refusal_of_pods if is_taken(revision, observed) else refusal_of
    refused = look(revision, observed, wall)
    if refused is not None:
        return refused
    canary = is_canary(resource, revision, observed)
    failures = (pod.failure or (pod.crash if canary else None) for pod in pods if pod.revision == revision)
    return startup.failure(revision) or next(filter(None, failures), None)


def last_start_failure(
    resource: ModelDeployment,
    revision: str,
    failure: Failure | None,
    pods: tuple[RuntimePod, ...],
    before: Manifest,
) -> Failure | None:
    """Return why the wanted revision last could not start: now, or earlier in this generation; None once it did.

    At zero nothing shows it any more, but a model that did not start the last time may not start the next time either.

    Args:
        resource: the resource.
        revision: the wanted revision.
        failure: why its pods do not start now.
        pods: the runtime pods.
        before: the status as it was.
    """
    if any(pod.routable for pod in pods if pod.revision == revision):
        return None
    earlier = before.get("startFailure", {})
    if failure is not None or earlier.get("observedGeneration") != resource.generation:
        return failure
    return Failure(earlier["reason"], earlier["message"])


def taken_back_for(
    resource: ModelDeployment, revision: str, failure: Failure | None, observed: Observed, before: Manifest
) -> str:
    """Return why a canary is taken back: its failure now, or an earlier one of this generation; empty when it is not.

    A canary that answers between two crashes would otherwise be given requests again and again.
    """
    if not is_canary(resource, revision, observed):
        return ""
    if failure is not None and failure.reason in _FINAL:
        return failure.reason
    if before.get("observedGeneration") != resource.generation:
        return ""
    return next((str(each.get("failure", "")) for each in before.get("revisions", []) if each["name"] == revision), "")


def weights(status: Manifest) -> dict[str, int]:
    """Return the route weights as last written, percent by revision."""
    return {item["name"]: int(item.get("weightPercent", 0)) for item in status.get("revisions", [])}
