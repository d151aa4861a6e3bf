"""How many replicas of which revision there should be, from the facts of one pass, and why the wanted one fails."""

from __future__ import annotations

from dataclasses import dataclass

from headrace.api import vocabulary as v
from headrace.kinds.modeldeployment.demand import Replicas, Wanted, wanted_replicas
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
from headrace.kinds.modeldeployment.room import PATIENCE_SECONDS, lacking_since, lacks_room
from headrace.kinds.modeldeployment.startup import StartupWatch, watch_startup

_FINAL = frozenset({v.CRASH_LOOP, v.OOM_KILLED, v.STARTUP_DEADLINE_EXCEEDED})
"""Failures of a revision rather than of what it needs (an image, room)."""


@dataclass(frozen=True, slots=True)
class Decision:
    """What was decided from the facts; children, status and route are rendered from it."""

    facts: Facts
    wanted: Wanted
    rollout: Rollout
    startup: StartupWatch
    failure: Failure | None
    """Why the wanted revision does not start."""
    lacking: float | None
    """Since when the wanted revision lacks room, on the monotonic clock."""
    start_failure: Failure | None
    """Why the wanted revision last could not start, until a start of this generation succeeds."""
    taken_back: str
    """The reason for which the wanted revision gets no requests as a canary any more; empty while it may."""

    def taking(self, revision: str) -> int:
        """Pods of a revision that requests go to now and will go to: without those that are about to be deleted."""
        return min(self.facts.routable(revision), self.rollout.replicas.get(revision, 0))

    @property
    def taking_over(self) -> bool:
        """Whether requests still go to an old revision."""
        return self.rollout.serving != self.facts.revision

    @property
    def stays_canary(self) -> bool:
        """Whether the wanted revision is a canary that has all that it is to have: its share, or its place at zero."""
        rollout = self.rollout
        canary = rollout.strategy is Strategy.CANARY and rollout.rolling
        return canary and (rollout.share > 0 or self.wanted.replicas == 0)

    @property
    def cause(self) -> Failure | None:
        """What keeps the wanted revision from starting; None when it is only a matter of time."""
        if self.failure is not None:
            return self.failure
        if self.taken_back:
            return Failure(self.taken_back, "it failed earlier, and runs again")
        source = self.facts.source
        return Failure(source.condition.reason, source.condition.message) if source.failed else None

    @property
    def replaces_for_capacity(self) -> bool:
        """Whether the stable revision is scaled down because there is no room for both, and not by the spec."""
        replaces = self.rollout.strategy is Strategy.REPLACE and self.rollout.rolling and self.taking_over
        only_lacks_room = self.cause is None or self.cause.reason == v.UNSCHEDULABLE
        by_spec = never_surges(self.facts.resource.spec.rollout)
        return replaces and only_lacks_room and not by_spec and self.facts.refusals.other is None


def decide(facts: Facts) -> Decision:
    """Return how many replicas each revision should have."""
    now, memory, revision, refusals = facts.signals.now, facts.memory, facts.revision, facts.refusals
    deadline = facts.resource.spec.rollout.startup_deadline_seconds
    watch = watch_startup(memory.startup, revision, facts.pods, now, deadline)
    replicas = Replicas(
        existing=_existing(facts),
        ready=_taking_requests(facts),
        activating=watch.activating(facts.pods, now, deadline),
        last_activation=watch.last_activation,
    )
    wanted = wanted_replicas(facts.resource, replicas, facts.signals, memory.scale)
    startup = watch if wanted.replicas else StartupWatch()
    failure = _why_failing(facts, startup)
    taken_back = _taken_back_for(facts, failure)
    # Pods that exist go on, whatever becomes of the evidence for their file.
    has_file = facts.source.cached or any(pod.revision == revision for pod in facts.pods)
    lacks = lacks_room(revision, refusals.pods, facts.pods, facts.terminating)
    lacking = lacking_since(memory.lacking, now, lacks=lacks)
    no_room = lacking is not None and now - lacking >= PATIENCE_SECONDS
    inputs = RolloutInputs(
        facts=facts,
        wanted=wanted.replicas,
        can_start=has_file and startup.may_start(revision, now) and refusals.accepts_revision,
        fails=failure is not None or bool(taken_back),
        settled=memory.moved is not None and now - memory.moved >= SETTLE_SECONDS,
        no_room=no_room,
    )
    return Decision(
        facts=facts,
        wanted=wanted,
        rollout=plan(inputs),
        startup=startup,
        failure=failure,
        lacking=now if no_room else lacking,  # one step was made; the next one waits as long again
        start_failure=_last_start_failure(facts, failure or watch.failure(revision)),
        taken_back=taken_back,
    )


def _existing(facts: Facts) -> int:
    """Return how many replicas there are to be so far.

    A resource that was deleted without its children and applied again owns no Deployment in its first pass, and adopts
    the one of its revision by applying it: then what runs of it counts.
    """
    if facts.deployments:
        return existing_replicas(facts.observed)
    return sum(pod.revision == facts.revision for pod in facts.pods)


def _taking_requests(facts: Facts) -> int:
    """Return how many pods share the requests: during a rollout those of one revision."""
    return sum(pod.routable and facts.shares.get(pod.revision, WHOLE) > 0 for pod in facts.pods)


def _why_failing(facts: Facts, startup: StartupWatch) -> Failure | None:
    """Return why the wanted revision does not start: it is refused, was given up, or a pod of it fails.

    A canary that crashes has failed, whether or not it was ready in between.
    """
    refusals = facts.refusals
    refused = refusals.pods if refusals.accepts_revision else refusals.first
    if refused is not None:
        return refused
    canary = facts.is_canary
    mine = (pod for pod in facts.pods if pod.revision == facts.revision)
    failures = (pod.failure or (pod.crash if canary else None) for pod in mine)
    return startup.failure(facts.revision) or next(filter(None, failures), None)


def _last_start_failure(facts: Facts, failure: Failure | None) -> Failure | None:
    """Return why the wanted revision last could not start: now, or earlier in this generation; None once it did.

    At zero nothing shows it any more, but a model that did not start the last time may not start the next time either.
    A Deployment that is refused is no failed start.
    """
    tried = failure if facts.refusals.accepts_revision else None
    if facts.routable(facts.revision):
        return None
    earlier = facts.before.get("startFailure", {})
    if tried is not None or earlier.get("observedGeneration") != facts.resource.generation:
        return tried
    return Failure(earlier["reason"], earlier["message"])


def _taken_back_for(facts: Facts, failure: Failure | None) -> str:
    """Return why a canary is taken back: its failure now, or an earlier one of this generation; empty when it is not.

    A canary that answers between two crashes would otherwise be given requests again and again.
    """
    if not facts.is_canary:
        return ""
    if failure is not None and failure.reason in _FINAL:
        return failure.reason
    if facts.before.get("observedGeneration") != facts.resource.generation:
        return ""
    revisions = facts.before.get("revisions", [])
    return next((str(each.get("failure", "")) for each in revisions if each["name"] == facts.revision), "")
