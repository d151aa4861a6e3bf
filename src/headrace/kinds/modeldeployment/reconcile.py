"""What should be true of a ModelDeployment next: the one rule that both worlds carry out.

In order: is the spec accepted; is the model's file there; how many replicas are wanted; which revision has them; what
do its pods say; and from all of that the children, the conditions, the route and the events. A pure function of its
arguments: the memory that it needs between calls (the autoscaler's windows, monotonic times) goes out and comes back.
"""

from __future__ import annotations

from collections.abc import Iterator

from headrace.api import vocabulary as v
from headrace.errors import InvalidResource
from headrace.kinds.modeldeployment.decision import Decision, decide
from headrace.kinds.modeldeployment.deployments import existing_replicas
from headrace.kinds.modeldeployment.facts import Facts, Memory, read
from headrace.kinds.modeldeployment.manifests.deployment import deployment, rescaled
from headrace.kinds.modeldeployment.manifests.disruption_budget import disruption_budget
from headrace.kinds.modeldeployment.manifests.network_policy import network_policies
from headrace.kinds.modeldeployment.manifests.service import service
from headrace.kinds.modeldeployment.manifests.service_account import service_account
from headrace.kinds.modeldeployment.peers import peers_of
from headrace.kinds.modeldeployment.pods import runtime_pods, runtimes_of_others
from headrace.kinds.modeldeployment.rejected import rejected
from headrace.kinds.modeldeployment.resource import ModelDeployment
from headrace.kinds.modeldeployment.revision_info import observed_revisions
from headrace.kinds.modeldeployment.route import publication, route
from headrace.kinds.modeldeployment.status_update import conditions, status
from headrace.kinds.modeldeployment.wake import watch_wake
from headrace.reconcile.conditions import Condition, clipped, events, told
from headrace.reconcile.world import Child, Event, Manifest, Observed, Outcome, Settings, Signals
from headrace.runtimes.profile import RuntimeProfile
from headrace.sources.location import scheme_of

WORKING_REQUEUE_SECONDS = 1.0
"""While something is in motion or demand is followed: the autoscaler's tick."""
STEADY_REQUEUE_SECONDS = 5.0
"""While replicas stand still: a gateway's death makes no sound, its presence only ends."""


def reconcile(
    manifest: Manifest, observed: Observed, signals: Signals, settings: Settings, memory: Memory | None
) -> Outcome[Memory]:
    """Return what should be true next of the ModelDeployment `manifest`. Never raises for a bad resource."""
    memory = memory or Memory(since=signals.now)
    pods = runtime_pods(observed, manifest.get("status", {}), signals, listening=memory.listening(signals.now))
    try:
        resource = _parsed(manifest, memory)
        _check(resource, observed, settings)
    except _Refused as refused:
        return rejected(manifest, refused.condition, observed, pods, signals, memory)
    return _outcome(decide(read(resource, manifest, observed, signals, settings, memory, pods)))


class _Refused(Exception):
    """The spec is not accepted; `condition` says why."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.condition = Condition(v.ACCEPTED, "False", reason, message)


def _parsed(manifest: Manifest, memory: Memory) -> ModelDeployment:
    """Return the parsed resource; a spec changes with its generation only."""
    known, metadata = memory.accepted, manifest["metadata"]
    if known is not None and (known.uid, known.generation) == (metadata.get("uid"), metadata.get("generation")):
        return known
    try:
        return ModelDeployment.parse(manifest)
    except InvalidResource as error:
        raise _Refused(v.INVALID_SPEC, "; ".join(str(cause) for cause in error.causes)) from error


def _check(resource: ModelDeployment, observed: Observed, settings: Settings) -> None:
    source, runtime = resource.spec.model.source, resource.spec.runtime
    scheme = scheme_of(source.uri) if source is not None else None
    if scheme is not None and scheme not in settings.allowed_schemes:
        allowed = ", ".join(sorted(settings.allowed_schemes))
        message = f"spec.model.source.uri: the scheme {scheme}:// is not allowed here; allowed: {allowed}"
        raise _Refused(v.SOURCE_NOT_ALLOWED, message)
    if not runtime.profile.command and not settings.runs_images:
        message = _lacks_command(runtime.profile)
        raise _Refused(v.INVALID_SPEC, message)
    holder = peers_of(observed).names_taken.get(resource.public_name)
    if holder is not None:
        message = (
            f"the ModelDeployment {holder} of this namespace has the name {resource.public_name}, or requested it first"
        )
        raise _Refused(v.NAME_TAKEN, f"{message}. Choose another spec.model.name")


def _lacks_command(profile: RuntimeProfile) -> str:
    if not profile.options:
        return f"spec.runtime.type: {profile.type} has no command, which is required here, where its image is not run"
    return f"spec.runtime.{profile.options}.command: is required here, where its image is not run"


def _outcome(decision: Decision) -> Outcome[Memory]:
    facts = decision.facts
    memory, before = facts.memory, facts.before.get("conditions", [])
    replicas = sum(decision.rollout.replicas.values())
    wake = watch_wake(memory.wake, existing_replicas(facts.observed), replicas, facts.pods, facts.signals)
    now = told(conditions(decision), before, memory.told, facts.signals.now)
    return Outcome(
        children=(
            *_guards(facts),
            *_deployments(decision),
            *((facts.fetch,) if facts.fetch is not None else ()),
            service(facts.resource),
        ),
        status=status(decision, now.conditions, wake),
        memory=Memory(
            since=memory.since,
            accepted=facts.resource,
            scale=decision.wanted.scale,
            startup=decision.startup,
            wake=wake,
            moved=_moved(decision),
            lacking=decision.lacking,
            lost=frozenset(pod.name for pod in facts.pods if pod.lost is not None),
            told=now.changed,
        ),
        publications=(publication(facts.manifest, route(decision)),),
        events=(*events(now.conditions, before), *_events(decision)),
        routable_pods=frozenset(pod.name for pod in facts.pods if pod.routable),
        requeue_seconds=WORKING_REQUEUE_SECONDS if now.withheld else _requeue(decision, now.conditions[0]),
    )


def _moved(decision: Decision) -> float | None:
    if not decision.rollout.rolling or decision.taking_over:
        return None
    moved = decision.facts.memory.moved
    return moved if moved is not None else decision.facts.signals.now


def _deployments(decision: Decision) -> Iterator[Child]:
    """Yield the wanted revision's Deployment first, because a wake waits for it.

    And last when it was refused, so that it does not hold up the others.
    """
    facts = decision.facts
    first = facts.refusals.accepts_revision
    revisions = sorted(decision.rollout.replicas.items(), key=lambda item: (item[0] == facts.revision) != first)
    for revision, replicas in revisions:
        present = facts.deployments.get(revision)
        if revision == facts.revision:
            others = len(runtimes_of_others(revision, facts.observed)) if facts.refusals.quota_full else None
            yield deployment(facts.resource, revision, replicas, facts.settings, present=present, quota_retry=others)
        else:
            yield rescaled(facts.deployments[revision], replicas)


def _guards(facts: Facts) -> Iterator[Child]:
    """Yield the account, the disruption budget and the network policies of the pods, where there is a platform."""
    resource, settings = facts.resource, facts.settings
    if settings.platform_namespace is not None:
        yield service_account(resource)
        yield from disruption_budget(resource)
        yield from network_policies(
            resource,
            settings.platform_namespace,
            settings,
            registering=_any_registers(facts),
        )


def _any_registers(facts: Facts) -> bool:
    """Whether pods of any revision register themselves; those without a Deployment have a label that says it."""
    revisions = observed_revisions(facts.observed, facts.manifest).values()
    labelled = (v.ANNOUNCES_LABEL in pod["metadata"].get("labels", {}) for pod in facts.observed.pods)
    return any(info.self_registers for info in revisions) or any(labelled)


def _events(decision: Decision) -> Iterator[Event]:
    """Yield the events that are no condition's: each compares what is with the status as it was."""
    facts = decision.facts
    spec, before = facts.resource.spec, facts.before
    if decision.wanted.scaled:
        yield Event("Normal", v.SCALED, decision.wanted.scaled)
    seen = before.get("specReplicas")
    if spec.scaling is not None and seen is not None and seen != spec.replicas:
        message = f"spec.replicas was changed from {seen} to {spec.replicas}, but spec.scaling is set"
        remedy = "Change spec.scaling, or remove it; spec.suspend: true forces zero"
        yield Event("Warning", v.SCALE_IGNORED, f"{message}. {remedy}")
    known = facts.shares.keys()
    if facts.revision not in known:
        yield Event("Normal", v.REVISION_CREATED, f"revision {facts.revision}")
    for name in sorted(known - decision.rollout.replicas.keys()):
        yield Event("Normal", v.REVISION_RETIRED, f"revision {name} gets no more requests")
    for pod in facts.pods:
        reported = decision.failure is not None and pod.revision == facts.revision
        if pod.lost is not None and pod.name not in facts.memory.lost and not reported:
            yield Event("Warning", pod.lost.reason, clipped(pod.lost.message))


def _waits_for_news(decision: Decision) -> bool:
    """Whether time alone changes nothing: no pods are there or asked for, none are to go or to be tried again."""
    scaling = decision.facts.resource.spec.scaling
    lowest = scaling is None or decision.wanted.replicas <= scaling.min_replicas
    none = not decision.facts.pods and not any(decision.rollout.replicas.values())
    return none and lowest and decision.startup.given_up is None


def _requeue(decision: Decision, ready: Condition) -> float | None:
    facts = decision.facts
    demanded = any(demand.queued + demand.in_flight for demand in facts.signals.demand.values())
    if decision.wanted.off is not None:
        return None
    if not demanded and _waits_for_news(decision):
        # A fetch recovers by going on for a while; gateways and the broker may have come back between two glances.
        heard = facts.signals.connected and facts.signals.gateways
        return None if heard and (facts.source.cached or facts.source.has_pod) else STEADY_REQUEUE_SECONDS
    lacks = facts.routable(facts.revision) < decision.rollout.aim
    moving = lacks or (decision.rollout.rolling and not decision.stays_canary)
    if ready.status != "True" or moving or (demanded and decision.wanted.scale is not None):
        return WORKING_REQUEUE_SECONDS
    if decision.wanted.replicas == 0:
        return None
    if decision.wanted.scale is None:
        return STEADY_REQUEUE_SECONDS
    scaling = facts.resource.spec.scaling
    if decision.wanted.replicas > max(1, scaling.min_replicas if scaling is not None else 0):
        return WORKING_REQUEUE_SECONDS  # the windows have to run empty
    return min(STEADY_REQUEUE_SECONDS, max(decision.wanted.seconds_to_idle or STEADY_REQUEUE_SECONDS, 0.0))
