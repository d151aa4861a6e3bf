"""What should be true of a ModelDeployment next: the one rule that both worlds carry out.

In order: is the spec accepted; is the model's file there; how many replicas are wanted; which revision has them; what
do its pods say; and from all of that the conditions, the route and the events. A pure function of its arguments: the
memory that it needs between calls (the autoscaler's windows, monotonic times) goes out and comes back in.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import datetime

from headrace.api import vocabulary as v
from headrace.api.model_deployment import ColdStart
from headrace.api.validation import ModelDeployment
from headrace.errors import InvalidResource
from headrace.reconcile.conditions import Condition, events, rendered
from headrace.reconcile.demand import Wanted, wanted_replicas
from headrace.reconcile.manifests.deployment import deployment, rescaled
from headrace.reconcile.manifests.fetch_job import fetch_job
from headrace.reconcile.manifests.service import service
from headrace.reconcile.pods import Failure, RuntimePod, component_of, runtime_pod
from headrace.reconcile.revision import revision_of
from headrace.reconcile.rollout import OldRevision, Rollout, plan
from headrace.reconcile.source import SourceState, observe_source
from headrace.reconcile.startup import StartupWatch, watch_startup
from headrace.reconcile.status import Findings, progressing, ready, routable, workloads_ready
from headrace.reconcile.wake import Wake, cold_start_status, watch_wake
from headrace.reconcile.world import Child, Event, Manifest, Observed, Outcome, Settings, Signals
from headrace.routes import RevisionWeight, Route, Unavailable
from headrace.scaling.autoscaler import ScaleState
from headrace.sources.location import scheme_of

WORKING_REQUEUE_SECONDS = 1.0
"""While something is in motion or demand is followed: the autoscaler's tick."""
STEADY_REQUEUE_SECONDS = 5.0
"""While replicas stand still: a gateway's death makes no sound, its presence only ends."""
FAILURE_RETRY_SECONDS = 10


@dataclass(frozen=True, slots=True)
class Memory:
    """What is carried from one look to the next; losing it (a restart) costs no correctness."""

    parsed: ModelDeployment | None = None
    scale: ScaleState | None = None
    startup: StartupWatch = field(default_factory=StartupWatch)
    wake: Wake | None = None


@dataclass(frozen=True, slots=True)
class _View:
    """Everything that was found out, for the functions that write it down."""

    resource: ModelDeployment
    revision: str
    before: Manifest
    source: SourceState
    wanted: Wanted
    pods: tuple[RuntimePod, ...]
    rollout: Rollout
    failure: Failure | None


def reconcile(
    manifest: Manifest, observed: Observed, signals: Signals, settings: Settings, memory: Memory | None
) -> Outcome[Memory]:
    """Return what should be true next of the ModelDeployment `manifest`. Never raises for a bad resource."""
    memory = memory or Memory()
    before = manifest.get("status", {})
    try:
        resource = _parsed(manifest, memory)
    except InvalidResource as error:
        faults = "; ".join(str(cause) for cause in error.causes)
        return _rejected(manifest, Condition(v.ACCEPTED, "False", v.INVALID_SPEC, faults), signals, memory, None)
    refusal = _refusal(resource, observed, settings)
    if refusal is not None:
        route = None
        if not observed.children and refusal.reason != v.NAME_TAKEN:
            route = _route(resource, manifest, (), Unavailable(reason=refusal.reason, message=refusal.message), "")
        return _rejected(manifest, refusal, signals, memory, route)
    view, startup = _view(resource, before, observed, signals, settings, memory)
    wake = watch_wake(memory.wake, _existing(observed), view.rollout.replicas, view.pods, signals)
    conditions = _conditions(view, signals)
    status = _status(view, manifest, conditions, signals, wake)
    return Outcome(
        children=_children(view, observed, settings),
        status=status,
        route=_route(resource, manifest, view.rollout.weights, _unavailable(view), _stage(view)),
        memory=Memory(parsed=resource, scale=view.wanted.scale, startup=startup, wake=wake),
        events=tuple(_events(view, observed, conditions)),
        routable_pods=frozenset(pod.name for pod in view.pods if pod.routable),
        requeue_seconds=_requeue(view, signals),
    )


def _parsed(manifest: Manifest, memory: Memory) -> ModelDeployment:
    """Parsing is most of the time of a look; a spec changes with its generation only."""
    known, metadata = memory.parsed, manifest["metadata"]
    if known is not None and (known.uid, known.generation) == (metadata.get("uid"), metadata.get("generation")):
        return known
    return ModelDeployment.parse(manifest)


def _refusal(resource: ModelDeployment, observed: Observed, settings: Settings) -> Condition | None:
    scheme = scheme_of(resource.spec.model.source.uri)
    if scheme not in settings.allowed_schemes:
        allowed = ", ".join(sorted(settings.allowed_schemes))
        message = f"sources of the scheme {scheme}:// are not allowed here; allowed: {allowed}"
        return Condition(v.ACCEPTED, "False", v.SOURCE_NOT_ALLOWED, message)
    if resource.public_name in observed.names_taken:
        message = f"an older ModelDeployment of the namespace serves the name {resource.public_name}"
        return Condition(v.ACCEPTED, "False", v.NAME_TAKEN, f"{message}. Choose another spec.model.name")
    return None


def _rejected(
    manifest: Manifest, accepted: Condition, signals: Signals, memory: Memory, route: Route | None
) -> Outcome[Memory]:
    """A spec that is not accepted changes nothing that runs; it is only said so."""
    before = manifest.get("status", {})
    unknown = "not looked at, because the spec is not accepted"
    conditions = [
        Condition(v.READY, "False", accepted.reason, accepted.message),
        accepted,
        *(Condition(type_, "Unknown", v.PENDING, unknown) for type_ in v.CONDITIONS[2:]),
    ]
    generation = manifest["metadata"].get("generation", 1)
    old = before.get("conditions", [])
    status = {
        **before,
        "observedGeneration": generation,
        "conditions": rendered(conditions, old, generation, signals.wall),
    }
    return Outcome(
        children=(),
        status=status,
        route=route,
        memory=replace(memory, parsed=None),
        events=tuple(events(conditions, old)),
        untouched=route is None,
    )


def _view(
    resource: ModelDeployment,
    before: Manifest,
    observed: Observed,
    signals: Signals,
    settings: Settings,
    memory: Memory,
) -> tuple[_View, StartupWatch]:
    revision = revision_of(resource)
    source = observe_source(resource, before, fetch_job(resource, settings).key, observed, signals)
    pods = _runtime_pods(before, observed, signals)
    ready = sum(pod.routable for pod in pods)
    wanted = wanted_replicas(resource, _existing(observed), ready, signals, memory.scale)
    startup = watch_startup(memory.startup, revision, pods, signals.now, resource.spec.rollout.startup_deadline_seconds)
    can_start = source.cached and startup.may_start(revision, signals.now)
    serves = any(pod.revision == revision and pod.routable for pod in pods)  # goes on, whatever became of the source
    rollout = plan(
        revision,
        wanted.replicas,
        olds=_olds(observed, revision),
        pods=pods,
        weights_before=_weights(before),
        can_start=can_start or serves,
    )
    failure = startup.failure(revision) or next(
        (pod.failure for pod in pods if pod.revision == revision and pod.failure is not None), None
    )
    return _View(resource, revision, before, source, wanted, pods, rollout, failure), startup


def _runtime_pods(before: Manifest, observed: Observed, signals: Signals) -> tuple[RuntimePod, ...]:
    crash_looping = any(
        condition["type"] == v.WORKLOADS_READY and condition["reason"] == v.CRASH_LOOP
        for condition in before.get("conditions", [])
    )
    return tuple(
        runtime_pod(pod, signals, crash_looping=crash_looping)
        for pod in observed.pods
        if component_of(pod) == v.COMPONENT_RUNTIME and not pod["metadata"].get("deletionTimestamp")
    )


def _deployments(observed: Observed) -> list[Manifest]:
    return [manifest for key, manifest in sorted(observed.children.items()) if key.kind == "Deployment"]


def _existing(observed: Observed) -> int:
    return sum(int(manifest["spec"].get("replicas", 0)) for manifest in _deployments(observed))


def _olds(observed: Observed, revision: str) -> tuple[OldRevision, ...]:
    found = (
        OldRevision(manifest["metadata"]["labels"][v.REVISION_LABEL], int(manifest["spec"].get("replicas", 0)))
        for manifest in _deployments(observed)
    )
    return tuple(old for old in found if old.name != revision)


def _weights(before: Manifest) -> dict[str, int]:
    return {item["name"]: int(item.get("weightPercent", 0)) for item in before.get("revisions", [])}


def _children(view: _View, observed: Observed, settings: Settings) -> tuple[Child, ...]:
    """The wanted revision's Deployment comes first: a wake waits for it alone."""
    resource, replicas = view.resource, view.rollout.replicas
    target = deployment(resource, view.revision, replicas[view.revision], settings)
    kept = [
        rescaled(manifest, replicas[revision])
        for manifest in _deployments(observed)
        if (revision := manifest["metadata"]["labels"][v.REVISION_LABEL]) != view.revision and revision in replicas
    ]
    return (target, *kept, fetch_job(resource, settings), service(resource))


def _conditions(view: _View, signals: Signals) -> list[Condition]:
    found = Findings(view.wanted, view.source, view.failure, view.pods, view.rollout, view.revision, signals)
    accepted = Condition(v.ACCEPTED, "True", v.VALID, "the spec is valid")
    workloads, admitted = workloads_ready(found), routable(found)
    return [
        ready(found, workloads, admitted),
        accepted,
        view.source.condition,
        workloads,
        admitted,
        view.wanted.condition,
        progressing(found),
    ]


def _status(
    view: _View, manifest: Manifest, conditions: list[Condition], signals: Signals, wake: Wake | None
) -> Manifest:
    generation = manifest["metadata"].get("generation", 1)
    revisions = []
    for name, replicas in view.rollout.replicas.items():
        weight = sum(w.weight_percent for w in view.rollout.weights if w.revision == name)
        ready = sum(pod.revision == name and pod.routable for pod in view.pods)
        revisions.append({"name": name, "weightPercent": weight, "replicas": replicas, "readyReplicas": ready})
    status: Manifest = {
        "observedGeneration": generation,
        "replicas": len(view.pods),
        "readyReplicas": sum(pod.routable for pod in view.pods),
        "specReplicas": view.resource.spec.replicas,
        "selector": f"{v.MODEL_LABEL}={view.resource.name},{v.COMPONENT_LABEL}={v.COMPONENT_RUNTIME}",
        "revisions": revisions,
        "conditions": rendered(conditions, view.before.get("conditions", []), generation, signals.wall),
    }
    if view.source.recorded is not None:
        status["source"] = view.source.recorded
    cold_start = cold_start_status(wake) or view.before.get("lastColdStart")
    if cold_start is not None:
        status["lastColdStart"] = cold_start
    return status


def _unavailable(view: _View) -> Unavailable | None:
    """Requests are held while an answer can be expected, and refused with the cause when it cannot."""
    if view.wanted.off is not None:
        return view.wanted.off
    if any(pod.routable or pod.serving for pod in view.pods):
        return None
    if view.source.failed:
        condition = view.source.condition
        return Unavailable(
            reason=condition.reason, message=condition.message, retry_after_seconds=FAILURE_RETRY_SECONDS
        )
    if view.failure is not None:
        return Unavailable(
            reason=view.failure.reason, message=view.failure.message, retry_after_seconds=FAILURE_RETRY_SECONDS
        )
    return None


def _stage(view: _View) -> str:
    if any(pod.routable for pod in view.pods):
        return ""
    if not view.source.cached:
        return "fetching"
    return "starting" if view.rollout.replicas.get(view.revision) else ""


def _route(
    resource: ModelDeployment,
    manifest: Manifest,
    weights: tuple[RevisionWeight, ...],
    unavailable: Unavailable | None,
    stage: str,
) -> Route:
    created = manifest["metadata"].get("creationTimestamp")
    scaling = resource.spec.scaling
    cold_start = scaling.cold_start if scaling is not None else ColdStart()
    return Route(
        namespace=resource.namespace,
        name=resource.name,
        public_name=resource.public_name,
        created=int(datetime.fromisoformat(created).timestamp()) if created else 0,
        revisions=weights,
        unavailable=unavailable,
        stage=stage,
        max_queued_requests=cold_start.max_queued_requests,
        queue_timeout_seconds=cold_start.queue_timeout_seconds,
    )


def _events(view: _View, observed: Observed, conditions: list[Condition]) -> list[Event]:
    result = events(conditions, view.before.get("conditions", []))
    before, after = _existing(observed), sum(view.rollout.replicas.values())
    if view.wanted.reason is not None and before != after and not view.rollout.rolling:
        result.append(Event("Normal", v.SCALED, f"from {before} to {after} replicas: {view.wanted.reason}"))
    seen = view.before.get("specReplicas")
    if view.resource.spec.scaling is not None and seen is not None and seen != view.resource.spec.replicas:
        message = f"spec.replicas was changed from {seen} to {view.resource.spec.replicas}, but spec.scaling rules"
        result.append(Event("Warning", v.SCALE_IGNORED, f"{message}. Change spec.scaling, or remove it"))
    known = {item["name"] for item in view.before.get("revisions", [])}
    if view.revision not in known:
        result.append(Event("Normal", v.REVISION_CREATED, f"revision {view.revision}"))
    result += [
        Event("Normal", v.REVISION_RETIRED, f"revision {name} has no requests any more")
        for name in sorted(known - view.rollout.replicas.keys())
    ]
    return result


def _requeue(view: _View, signals: Signals) -> float | None:
    demanded = any(demand.queued + demand.in_flight for demand in signals.demand.values())
    target = view.rollout.replicas.get(view.revision, 0)
    ready = sum(pod.revision == view.revision and pod.routable for pod in view.pods)
    if demanded or view.rollout.rolling or ready != target or (view.wanted.replicas and not target):
        return WORKING_REQUEUE_SECONDS
    if view.wanted.replicas == 0:
        return None
    if view.wanted.scale is not None:
        return min(WORKING_REQUEUE_SECONDS, view.wanted.seconds_to_idle or WORKING_REQUEUE_SECONDS)
    return STEADY_REQUEUE_SECONDS
