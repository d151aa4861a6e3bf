"""The reconcile function of ModelDeployments, which both worlds call.

Steps: check the spec; read the facts (file, pods, signals); decide the number of replicas, their revisions and the
weights; render children, conditions, route and events. It is a pure function of its arguments: the memory between two
calls (the autoscaler's windows, monotonic times) is part of the result, and an argument of the next call.
"""

from __future__ import annotations

from collections.abc import Iterator

from headrace.api import vocabulary as v
from headrace.errors import InvalidResource
from headrace.kinds.modeldeployment import standby
from headrace.kinds.modeldeployment.decision import Decision, decide
from headrace.kinds.modeldeployment.deployments import existing_replicas
from headrace.kinds.modeldeployment.facts import Facts, Memory, read
from headrace.kinds.modeldeployment.kept_on import affinity, kept_on
from headrace.kinds.modeldeployment.manifests.deployment import deployment, rescaled
from headrace.kinds.modeldeployment.manifests.disruption_budget import disruption_budget
from headrace.kinds.modeldeployment.manifests.network_policy import network_policies
from headrace.kinds.modeldeployment.manifests.service import service
from headrace.kinds.modeldeployment.manifests.service_account import service_account
from headrace.kinds.modeldeployment.peers import peers_of
from headrace.kinds.modeldeployment.pods import pods_of_other_revisions, runtime_pods
from headrace.kinds.modeldeployment.rejected import rejected
from headrace.kinds.modeldeployment.resource import ModelDeployment
from headrace.kinds.modeldeployment.revision_info import observed_revisions
from headrace.kinds.modeldeployment.route import publication, route
from headrace.kinds.modeldeployment.spec import Spec
from headrace.kinds.modeldeployment.status_update import conditions, status
from headrace.kinds.modeldeployment.wake import watch_wake
from headrace.reconcile.conditions import Condition, clipped, events, throttle_messages
from headrace.reconcile.world import Child, Event, Manifest, Observed, Outcome, Settings, Signals
from headrace.runtimes.profile import RuntimeProfile
from headrace.sources.location import redacted, scheme_of

WORKING_REQUEUE_SECONDS = 1.0
"""While something changes or there is demand: the interval of the autoscaler."""
STEADY_REQUEUE_SECONDS = 5.0
"""While nothing changes: a gateway that crashes sends no message, its presence only expires."""

_DEFAULT_REPLICAS = Spec.model_fields["replicas"].default


def reconcile(
    manifest: Manifest, observed: Observed, signals: Signals, settings: Settings, memory: Memory | None
) -> Outcome[Memory]:
    """Return the desired state of the ModelDeployment `manifest`. Never raises for an invalid resource."""
    memory = memory or Memory(since=signals.now)
    pods = runtime_pods(observed, manifest.get("status", {}), signals, listening=memory.listening(signals.now))
    try:
        resource = _parsed(manifest, memory)
        _check(resource, observed, settings)
    except _Refused as refused:
        return rejected(manifest, refused.condition, observed, pods, signals, memory)
    return _outcome(decide(read(resource, manifest, observed, signals, settings, memory, pods)))


class _Refused(Exception):
    """The spec is not accepted; `condition` has the cause."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.condition = Condition(v.ACCEPTED, "False", reason, message)


def _parsed(manifest: Manifest, memory: Memory) -> ModelDeployment:
    """Return the parsed resource, cached by generation."""
    known, metadata = memory.accepted, manifest["metadata"]
    if known is not None and (known.uid, known.generation) == (metadata.get("uid"), metadata.get("generation")):
        return known
    try:
        return ModelDeployment.parse(manifest)
    except InvalidResource as error:
        raise _Refused(v.INVALID_SPEC, "; ".join(str(cause) for cause in error.causes)) from error


def _check(resource: ModelDeployment, observed: Observed, settings: Settings) -> None:
    source, runtime = resource.spec.model.source, resource.spec.runtime
    for each in (*([source] if source is not None else []), *runtime.adapters):
        if (scheme := scheme_of(each.uri)) not in settings.allowed_schemes:
            allowed = ", ".join(sorted(settings.allowed_schemes))
            message = f"{each.field}: the scheme {scheme}:// of {redacted(each.uri)} is not allowed here"
            raise _Refused(v.SOURCE_NOT_ALLOWED, f"{message}; allowed: {allowed}")
    if not runtime.profile.command and not settings.runs_images:
        message = _lacks_command(runtime.profile)
        raise _Refused(v.INVALID_SPEC, message)
    taken = peers_of(observed).names_taken
    for name in (resource.public_name, *resource.adapter_names):
        if (holder := taken.get(name)) is not None:
            message = f"the ModelDeployment {holder} of this namespace has or first requested the name {name}"
            field = "spec.model.name" if name == resource.public_name else "name in spec.runtime.llm.adapters"
            raise _Refused(v.NAME_TAKEN, f"{message}. Choose another {field}")


def _lacks_command(profile: RuntimeProfile) -> str:
    if not profile.options:
        return f"spec.runtime.type: {profile.type} has no command; this mode does not run images"
    return f"spec.runtime.{profile.options}.command: is required in this mode, which does not run images"


def _outcome(decision: Decision) -> Outcome[Memory]:
    facts = decision.facts
    memory, before = facts.memory, facts.before.get("conditions", [])
    replicas = sum(decision.rollout.replicas.values())
    wake = watch_wake(memory.wake, existing_replicas(facts.observed), replicas, facts.pods, facts.signals)
    throttled = throttle_messages(conditions(decision), before, memory.message_changed, facts.signals.now)
    return Outcome(
        children=(
            *_pod_prerequisites(facts),
            *_deployments(decision),
            *standby.pool(facts),
            *facts.fetches,
            service(facts.resource),
        ),
        status=status(decision, throttled.conditions, wake),
        memory=Memory(
            since=memory.since,
            accepted=facts.resource,
            scale=decision.desired.scale,
            startup=decision.startup,
            wake=wake,
            weight_moved=_weight_moved(decision),
            lacking_since=decision.lacking_since,
            exited=frozenset(pod.name for pod in facts.pods if pod.exit_failure is not None),
            unrouted=facts.unrouted,
            converted=frozenset(standby.starting_replicas(facts, facts.revision)),
            message_changed=throttled.changed,
        ),
        publications=(publication(facts.manifest, route(decision)),),
        events=(*events(throttled.conditions, before), *_events(decision)),
        routable_pods=frozenset(pod.name for pod in facts.pods if pod.routable),
        conversions=standby.conversions(facts),
        launches=standby.launches(facts),
        kept_objects=frozenset(each["object"] for each in kept_on(facts)),
        requeue_seconds=WORKING_REQUEUE_SECONDS if throttled.withheld else _requeue(decision, throttled.conditions[0]),
    )


def _weight_moved(decision: Decision) -> float | None:
    if not decision.rollout.rolling or decision.stable_serves:
        return None
    moved = decision.facts.memory.weight_moved
    return moved if moved is not None else decision.facts.signals.now


def _deployments(decision: Decision) -> Iterator[Child]:
    """Yield the Deployments, that of the desired revision first, because a cold start waits for it.

    If it was refused, it is last, so that the refusal does not delay the others.
    """
    facts = decision.facts
    first = facts.refusals.accepts_revision
    revisions = sorted(decision.rollout.replicas.items(), key=lambda item: (item[0] == facts.revision) != first)
    for revision, replicas in revisions:
        present = facts.deployments.get(revision)
        if revision == facts.revision:
            others = len(pods_of_other_revisions(revision, facts.observed)) if facts.refusals.quota_full else None
            yield deployment(
                facts.resource,
                revision,
                replicas,
                facts.settings,
                present=present,
                quota_retry=others,
                affinity=affinity(facts),
            )
        else:
            yield rescaled(facts.deployments[revision], replicas)


def _pod_prerequisites(facts: Facts) -> Iterator[Child]:
    """Yield the service account, disruption budget and network policies of the pods, in a cluster."""
    resource, settings = facts.resource, facts.settings
    if settings.platform_namespace is not None:
        yield service_account(resource)
        yield from disruption_budget(resource)
        yield from network_policies(
            resource,
            settings.platform_namespace,
            settings,
            registering=_any_registers(facts),
            standby=bool(standby.pool(facts)),
        )


def _any_registers(facts: Facts) -> bool:
    """Whether pods of any revision register themselves; those without a Deployment have a label that says it."""
    revisions = observed_revisions(facts.observed, facts.manifest).values()
    labelled = (v.ANNOUNCES_LABEL in pod["metadata"].get("labels", {}) for pod in facts.observed.pods)
    return any(info.self_registers for info in revisions) or any(labelled)


def _events(decision: Decision) -> Iterator[Event]:
    """Yield the events that do not derive from conditions, from a comparison with the previous status."""
    facts = decision.facts
    spec, before = facts.resource.spec, facts.before
    if decision.desired.scaled:
        yield Event("Normal", v.SCALED, decision.desired.scaled)
    seen = before.get("specReplicas")
    # A manifest without replicas, applied again, resets the field to its default, which is no request to scale.
    if spec.scaling is not None and seen is not None and spec.replicas not in (seen, _DEFAULT_REPLICAS):
        message = f"spec.replicas was changed from {seen} to {spec.replicas}, but spec.scaling is set"
        remedy = "Change spec.scaling, or remove it; spec.suspend: true forces zero"
        yield Event("Warning", v.SCALE_IGNORED, f"{message}. {remedy}")
    known = facts.shares.keys()
    if facts.revision not in known:
        yield Event("Normal", v.REVISION_CREATED, f"revision {facts.revision}")
    for name in sorted(known - decision.rollout.replicas.keys()):
        yield Event("Normal", v.REVISION_RETIRED, f"revision {name} receives no more requests")
    for pod in facts.pods:
        reported = decision.failure is not None and pod.revision == facts.revision
        if pod.exit_failure is not None and pod.name not in facts.memory.exited and not reported:
            yield Event("Warning", pod.exit_failure.reason, clipped(pod.exit_failure.message))


def _needs_no_timer(decision: Decision) -> bool:
    """Whether time alone changes nothing: no pods exist or are desired, and no scale-down or retry is pending."""
    scaling = decision.facts.resource.spec.scaling
    lowest = scaling is None or decision.desired.replicas <= scaling.min_replicas
    none = not decision.facts.pods and not any(decision.rollout.replicas.values())
    return none and lowest and decision.startup.paused is None


def _requeue(decision: Decision, ready: Condition) -> float | None:
    facts = decision.facts
    demanded = any(demand.queued + demand.in_flight for demand in facts.signals.demand.values())
    if decision.desired.rejection is not None:
        return None
    if not demanded and _needs_no_timer(decision):
        # A fetch recovers by running for some time; gateways and the broker may have reconnected since the last pass.
        has_signals = facts.signals.connected and facts.signals.gateways
        return None if has_signals and (facts.files.cached or facts.files.has_pod) else STEADY_REQUEUE_SECONDS
    lacks = facts.routable(facts.revision) < decision.rollout.aim
    changing = lacks or (decision.rollout.rolling and not decision.canary_in_place)
    if ready.status != "True" or changing or (demanded and decision.desired.scale is not None):
        return WORKING_REQUEUE_SECONDS
    if decision.desired.replicas == 0:
        return None
    if decision.desired.scale is None:
        return STEADY_REQUEUE_SECONDS
    scaling = facts.resource.spec.scaling
    if decision.desired.replicas > max(1, scaling.min_replicas if scaling is not None else 0):
        return WORKING_REQUEUE_SECONDS  # until the windows are empty
    return min(STEADY_REQUEUE_SECONDS, max(decision.desired.seconds_to_idle or STEADY_REQUEUE_SECONDS, 0.0))
