"""Decision of a pass: replicas and weight of each revision, and failures of the desired revision."""

from __future__ import annotations

from dataclasses import dataclass

from headrace.api import vocabulary as v
from headrace.kinds.modeldeployment.capacity import CAPACITY_WAIT_SECONDS, lacking_since, lacks_capacity
from headrace.kinds.modeldeployment.demand import DesiredReplicas, ReplicaCounts, desired_replicas
from headrace.kinds.modeldeployment.deployments import existing_replicas
from headrace.kinds.modeldeployment.facts import Facts
from headrace.kinds.modeldeployment.pods import Failure
from headrace.kinds.modeldeployment.rollout import (
    SETTLE_SECONDS,
    WHOLE,
    Rollout,
    RolloutInputs,
    Strategy,
    never_surges,
    plan,
)
from headrace.kinds.modeldeployment.startup import StartupWatch, watch_startup

_FINAL = frozenset({v.CRASH_LOOP, v.OOM_KILLED, v.STARTUP_DEADLINE_EXCEEDED})
"""Failures of the revision itself, not of its dependencies (image, capacity)."""


@dataclass(frozen=True, slots=True)
class Decision:
    """Desired state derived from the facts. Children, status and route are rendered from it."""

    facts: Facts
    desired: DesiredReplicas
    rollout: Rollout
    startup: StartupWatch
    failure: Failure | None
    """Why the desired revision does not start."""
    lacking_since: float | None
    """Monotonic time since which the desired revision has lacked capacity."""
    start_failure: Failure | None
    """The last failure to start the desired revision, until a start of this generation succeeds."""
    rollback_reason: str
    """Reason for which the canary was rolled back; empty if it was not."""

    def receiving(self, revision: str) -> int:
        """Return the number of pods of a revision that receive requests, without those that are about to be deleted."""
        return min(self.facts.routable(revision), self.rollout.replicas.get(revision, 0))

    @property
    def stable_serves(self) -> bool:
        """Whether the stable revision still receives requests."""
        return self.rollout.serving != self.facts.revision

    @property
    def canary_in_place(self) -> bool:
        """Whether the desired revision is a canary with its full share, or a canary of a model at zero."""
        rollout = self.rollout
        canary = rollout.strategy is Strategy.CANARY and rollout.rolling
        return canary and (rollout.share > 0 or self.desired.replicas == 0)

    @property
    def cause(self) -> Failure | None:
        """What prevents the desired revision from starting; None if it is still starting."""
        if self.failure is not None:
            return self.failure
        if self.rollback_reason:
            return Failure(self.rollback_reason, "it failed earlier, and is running again")
        source = self.facts.files
        return Failure(source.condition.reason, source.condition.message) if source.failed else None

    @property
    def replaces_for_capacity(self) -> bool:
        """Whether the stable revision is scaled down for lack of capacity, and not because the spec requires it."""
        replaces = self.rollout.strategy is Strategy.REPLACE and self.rollout.rolling and self.stable_serves
        only_lacks_capacity = self.cause is None or self.cause.reason == v.UNSCHEDULABLE
        by_spec = never_surges(self.facts.resource.spec.rollout)
        return replaces and only_lacks_capacity and not by_spec and self.facts.refusals.other is None


def decide(facts: Facts) -> Decision:
    """Return the decision of a pass."""
    now, memory, revision, refusals = facts.signals.now, facts.memory, facts.revision, facts.refusals
    deadline = facts.resource.spec.rollout.startup_deadline_seconds
    watch = watch_startup(memory.startup, revision, facts.pods, now, deadline)
    replicas = ReplicaCounts(
        existing=_existing(facts),
        ready=_receiving_requests(facts),
        activating=watch.activating(facts.pods, now, deadline),
        last_activation=watch.last_activation,
    )
    desired = desired_replicas(facts.resource, replicas, facts.signals, memory.scale)
    startup = watch if desired.replicas else StartupWatch()
    failure = _why_failing(facts, startup)
    rollback_reason = _rollback_reason(facts, failure)
    # Existing pods have read the files: a later doubt about them does not stop them.
    has_file = facts.files.cached or any(pod.revision == revision for pod in facts.pods)
    lacks = lacks_capacity(revision, refusals.pods, facts.pods, facts.terminating)
    since = lacking_since(memory.lacking_since, now, lacks=lacks)
    must_replace = since is not None and now - since >= CAPACITY_WAIT_SECONDS
    inputs = RolloutInputs(
        facts=facts,
        desired=desired.replicas,
        can_start=has_file and startup.may_start(revision, now) and refusals.accepts_revision,
        failing=failure is not None or bool(rollback_reason),
        settled=memory.weight_moved is not None and now - memory.weight_moved >= SETTLE_SECONDS,
        lacks_capacity=must_replace,
    )
    return Decision(
        facts=facts,
        desired=desired,
        rollout=plan(inputs),
        startup=startup,
        failure=failure,
        lacking_since=now if must_replace else since,  # after each step the waiting time starts again
        start_failure=_last_start_failure(facts, failure or watch.failure(revision)),
        rollback_reason=rollback_reason,
    )


def _existing(facts: Facts) -> int:
    """Return the present number of desired replicas.

    A resource that was deleted without its children and applied again owns no Deployment in its first pass, and adopts
    that of its revision by applying it. Until then the number of running pods counts.
    """
    if facts.deployments:
        return existing_replicas(facts.observed)
    return sum(pod.revision == facts.revision for pod in facts.pods)


def _receiving_requests(facts: Facts) -> int:
    """Return the number of pods that receive requests: those of revisions with a weight."""
    return sum(pod.routable and facts.shares.get(pod.revision, WHOLE) > 0 for pod in facts.pods)


def _why_failing(facts: Facts, startup: StartupWatch) -> Failure | None:
    """Return why the desired revision does not start: refused, deadline exceeded, or a failing pod.

    A canary that crashes has failed, even if it was ready before.
    """
    refusals = facts.refusals
    refused = refusals.pods if refusals.accepts_revision else refusals.first
    if refused is not None:
        return refused
    canary = facts.is_canary
    own_pods = (pod for pod in facts.pods if pod.revision == facts.revision)
    failures = (pod.failure or (pod.crash if canary else None) for pod in own_pods)
    return startup.failure(facts.revision) or next(filter(None, failures), None)


def _last_start_failure(facts: Facts, failure: Failure | None) -> Failure | None:
    """Return the last failure to start the desired revision, now or earlier in this generation; None after a start.

    At zero no pod shows the failure any more, but the next start may fail for the same reason. A refused Deployment is
    not a failed start.
    """
    tried = failure if facts.refusals.accepts_revision else None
    if facts.routable(facts.revision):
        return None
    earlier = facts.before.get("startFailure", {})
    if tried is not None or earlier.get("observedGeneration") != facts.resource.generation:
        return tried
    return Failure(earlier["reason"], earlier["message"])


def _rollback_reason(facts: Facts, failure: Failure | None) -> str:
    """Return why a canary is rolled back: a failure now or earlier in this generation; empty if it is not.

    Without the memory of earlier failures, a canary that serves between two crashes would receive requests repeatedly.
    """
    if not facts.is_canary:
        return ""
    if failure is not None and failure.reason in _FINAL:
        return failure.reason
    if facts.before.get("observedGeneration") != facts.resource.generation:
        return ""
    revisions = facts.before.get("revisions", [])
    return next((str(each.get("failure", "")) for each in revisions if each["name"] == facts.revision), "")
