"""What should be true of a ModelDeployment next: the one rule that both worlds carry out.

In order: is the spec accepted; is the model's file there; how many replicas are wanted; which revision has them; what
do its pods say; and from all of that the children, the conditions, the route and the events. A pure function of its
arguments: the memory that it needs between calls (the autoscaler's windows, monotonic times) goes out and comes back.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

from headrace.api import vocabulary as v
from headrace.api.validation import ModelDeployment
from headrace.errors import InvalidResource
from headrace.reconcile.conditions import Condition, events, told
from headrace.reconcile.demand import Replicas, wanted_replicas
from headrace.reconcile.deployments import deployments, existing_replicas, is_announcing_container, replicas_of
from headrace.reconcile.findings import (
    Findings,
    last_start_failure,
    taken_back_for,
    weights,
    why_failing,
)
from headrace.reconcile.manifests.deployment import deployment, rescaled
from headrace.reconcile.manifests.disruption_budget import disruption_budget
from headrace.reconcile.manifests.fetch_job import fetch_job
from headrace.reconcile.manifests.network_policy import network_policies
from headrace.reconcile.manifests.service import service
from headrace.reconcile.manifests.service_account import service_account
from headrace.reconcile.pods import RuntimePod, leaving_revisions, runtime_pods, runtimes_of_others
from headrace.reconcile.refusals import is_taken, refusal_of, refusal_of_others, refusal_of_pods
from headrace.reconcile.rejected import rejected
from headrace.reconcile.revision import revision_of
from headrace.reconcile.rollout import SETTLE_SECONDS, WHOLE, Rollout, Scene, plan
from headrace.reconcile.room import PATIENCE_SECONDS, gives_way, lacking_since, lacks_room
from headrace.reconcile.route import publication, route
from headrace.reconcile.shared_source import fetched_by, known_source, was_verified, while_verified_again
from headrace.reconcile.source import NOTHING_TO_FETCH, SourceState, observe_source, recorded_source
from headrace.reconcile.startup import StartupWatch, watch_startup
from headrace.reconcile.status import conditions, status
from headrace.reconcile.wake import Wake, watch_wake
from headrace.reconcile.world import Child, Event, Manifest, Observed, Outcome, Settings, Signals
from headrace.scaling.autoscaler import ScaleState
from headrace.sources.location import scheme_of

WORKING_REQUEUE_SECONDS = 1.0
"""While something is in motion or demand is followed: the autoscaler's tick."""
STEADY_REQUEUE_SECONDS = 5.0
"""While replicas stand still: a gateway's death makes no sound, its presence only ends."""
LISTENING_SECONDS = 5.0
"""After a (re)start: by then every replica and gateway that is alive has answered the solicitation."""


@dataclass(frozen=True, slots=True)
class Memory:
    """What is carried from one look to the next; losing it (a restart) costs no correctness."""

    since: float
    """Monotonic time of the first look."""
    accepted: ModelDeployment | None = None
    """The last accepted spec: parsing is most of the time of a look."""
    scale: ScaleState | None = None
    startup: StartupWatch = field(default_factory=StartupWatch)
    wake: Wake | None = None
    moved: float | None = None
    """When the route's weight moved to the wanted revision, while an old one waits for the gateways to see it."""
    lacking: float | None = None
    """Since when the wanted revision finds no room (or since the last replica gave way to it)."""
    told: float = -math.inf
    """When a condition's message was last changed while its reason stayed."""


@dataclass(frozen=True, slots=True)
class _Look:
    """What one call was given, and the pods as they were read."""

    manifest: Manifest
    observed: Observed
    signals: Signals
    settings: Settings
    memory: Memory
    listening: bool
    pods: tuple[RuntimePod, ...]

    @property
    def before(self) -> Manifest:
        """The status as it is."""
        status: Manifest = self.manifest.get("status", {})
        return status


def reconcile(
    manifest: Manifest, observed: Observed, signals: Signals, settings: Settings, memory: Memory | None
) -> Outcome[Memory]:
    """Return what should be true next of the ModelDeployment `manifest`. Never raises for a bad resource."""
    memory = memory or Memory(since=signals.now)
    listening = signals.now - memory.since >= LISTENING_SECONDS
    pods = runtime_pods(observed, manifest.get("status", {}), signals, listening=listening)
    try:
        resource = _parsed(manifest, memory)
        _check(resource, observed, settings)
    except _Refused as refused:
        return rejected(manifest, refused.condition, observed, pods, signals, memory)
    return _accepted(resource, _Look(manifest, observed, signals, settings, memory, listening, pods))


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
    source, engine = resource.spec.model.source, resource.spec.runtime.container
    scheme = scheme_of(source.uri) if source is not None else None
    if scheme is not None and scheme not in settings.allowed_schemes:
        allowed = ", ".join(sorted(settings.allowed_schemes))
        message = f"spec.model.source.uri: the scheme {scheme}:// is not allowed here; allowed: {allowed}"
        raise _Refused(v.SOURCE_NOT_ALLOWED, message)
    if engine is not None and not engine.command and not settings.runs_images:
        message = "spec.runtime.container.command: is required here, where its image is not run"
        raise _Refused(v.INVALID_SPEC, message)
    holder = observed.names_taken.get(resource.public_name)
    if holder is not None:
        message = (
            f"the ModelDeployment {holder} of this namespace has the name {resource.public_name}, or requested it first"
        )
        raise _Refused(v.NAME_TAKEN, f"{message}. Choose another spec.model.name")


def _accepted(resource: ModelDeployment, look: _Look) -> Outcome[Memory]:
    observed, signals, settings, memory = look.observed, look.signals, look.settings, look.memory
    fetch, source = _fetch(resource, look)
    found = _found(resource, source, look)
    replicas = sum(found.rollout.replicas.values())
    wake = watch_wake(memory.wake, existing_replicas(observed), replicas, look.pods, signals)
    now = told(conditions(found), look.before.get("conditions", []), memory.told, signals.now)
    return Outcome(
        children=(
            *_guards(resource, observed, settings),
            *_deployments(found, observed, settings),
            *((fetch,) if fetch is not None else ()),
            service(resource),
        ),
        status=status(found, now.conditions, wake, settings),
        memory=Memory(
            since=memory.since,
            accepted=resource,
            scale=found.wanted.scale,
            startup=found.startup,
            wake=wake,
            moved=_moved(found.rollout, memory, signals),
            lacking=found.lacking,
            told=now.changed,
        ),
        publications=(publication(look.manifest, route(found, look.manifest, observed)),),
        events=(*events(now.conditions, look.before.get("conditions", [])), *_events(found)),
        routable_pods=frozenset(pod.name for pod in look.pods if pod.routable),
        requeue_seconds=WORKING_REQUEUE_SECONDS if now.withheld else _requeue(found, now.conditions[0]),
    )


def _fetch(resource: ModelDeployment, look: _Look) -> tuple[Child | None, SourceState]:
    """Return the wanted fetch (None: there is nothing to fetch here), and what is known of the source.

    What is verified already, or fetched for another model of the namespace, is not fetched again
    (`headrace.reconcile.shared_source`). A Job that is there is kept until Kubernetes removes it.

    Once a fetch has brought another file than was recorded, the next one must bring the recorded one: it drops what is
    there and tries until the source is restored.
    """
    source = resource.spec.model.source
    if source is None:
        return None, NOTHING_TO_FETCH

    def observed(fetch: Child) -> SourceState:
        return observe_source(source, look.before, fetch.key, look.observed, look.signals)

    fetch = fetch_job(resource, source, look.settings)
    recorded = recorded_source(source, look.before)
    again = fetch
    if recorded is not None and source.digest is None:
        again = fetch_job(resource, source, look.settings, expected=recorded["digest"])
    if not {fetch.key, again.key} & look.observed.children.keys():
        if (known := known_source(source, look.before)) is not None:
            return None, known
        if look.observed.fetcher is not None and not was_verified(source, look.before):
            return None, fetched_by(look.observed.fetcher, source, look.before)
    if again.key in look.observed.children:
        return again, observed(again)
    state = while_verified_again(observed(fetch), source, look.before, look.signals)
    return again if state.condition.reason == v.DIGEST_MISMATCH else fetch, state


def _found(resource: ModelDeployment, source: SourceState, look: _Look) -> Findings:
    """Decide how many replicas of which revision there should be."""
    observed, pods, now, memory = look.observed, look.pods, look.signals.now, look.memory
    revision = revision_of(resource, look.settings)
    deadline = resource.spec.rollout.startup_deadline_seconds
    watch = watch_startup(memory.startup, revision, pods, now, deadline)
    replicas = Replicas(
        existing=_existing(revision, observed, pods),
        ready=_taking_requests(pods, look.before),
        activating=watch.activating(pods, now, deadline),
        last_activation=watch.last_activation,
    )
    wanted = wanted_replicas(resource, replicas, look.signals, memory.scale)
    startup = watch if wanted.replicas else StartupWatch()
    # Pods that exist go on, whatever becomes of the evidence for their file.
    has_file = source.cached or any(pod.revision == revision for pod in pods)
    failure = why_failing(resource, revision, observed, pods, startup, look.signals.wall)
    tried = (failure or watch.failure(revision)) if is_taken(revision, observed) else None
    taken_back = taken_back_for(resource, revision, failure, observed, look.before)
    leaving = leaving_revisions(observed)
    refused = refusal_of_pods(revision, observed, look.signals.wall)
    lacking = lacking_since(memory.lacking, now, lacks=lacks_room(revision, refused, pods, leaving))
    scene = Scene(
        target=revision,
        wanted=wanted.replicas,
        strategy=resource.spec.rollout,
        olds={name: replicas_of(found) for name, found in deployments(observed).items() if name != revision},
        pods=pods,
        leaving=leaving,
        shares=weights(look.before),
        can_start=has_file and startup.may_start(revision, now) and is_taken(revision, observed),
        fails=failure is not None or bool(taken_back),
        settled=memory.moved is not None and now - memory.moved >= SETTLE_SECONDS,
        replacing=gives_way(look.before),
        no_room=lacking is not None and now - lacking >= PATIENCE_SECONDS,
    )
    if scene.no_room:
        lacking = now  # one step; the next one waits as long again
    return Findings(
        resource=resource,
        before=look.before,
        signals=look.signals,
        listening=look.listening,
        source=source,
        wanted=wanted,
        pods=pods,
        rollout=plan(scene),
        startup=startup,
        refused=refusal_of(revision, observed, look.signals.wall),
        quota_full=refused is not None and refused.reason == v.UNSCHEDULABLE,
        failure=failure,
        stuck=refusal_of_others(revision, observed),
        lacking=lacking,
        start_failure=last_start_failure(resource, revision, tried, pods, look.before),
        taken_back=taken_back,
    )


def _existing(revision: str, observed: Observed, pods: tuple[RuntimePod, ...]) -> int:
    """Return how many replicas there are to be so far.

    A resource that was deleted without its children and applied again owns no Deployment in its first pass, and adopts
    the one of its revision by applying it: then what runs of it counts.
    """
    if deployments(observed):
        return existing_replicas(observed)
    return sum(pod.revision == revision for pod in pods)


def _taking_requests(pods: tuple[RuntimePod, ...], before: Manifest) -> int:
    """Return how many pods share the requests: during a rollout those of one revision."""
    share = weights(before)
    return sum(pod.routable and share.get(pod.revision, WHOLE) > 0 for pod in pods)


def _moved(rollout: Rollout, memory: Memory, signals: Signals) -> float | None:
    if not rollout.rolling or rollout.serving != rollout.target:
        return None
    return memory.moved if memory.moved is not None else signals.now


def _deployments(found: Findings, observed: Observed, settings: Settings) -> Iterator[Child]:
    """Yield the wanted revision's Deployment first: a wake waits for it alone (nothing is written before it then).

    And last when it was refused, so that it does not stand in the way of the others.
    """
    present = deployments(observed)
    revisions = sorted(found.rollout.replicas.items(), key=lambda item: not is_taken(item[0], observed))
    for revision, replicas in revisions:
        if revision == found.revision:
            others = len(runtimes_of_others(revision, observed)) if found.quota_full else None
            before = present.get(revision)
            yield deployment(found.resource, revision, replicas, settings, present=before, nudge=others)
        else:
            yield rescaled(present[revision], replicas)


def _guards(resource: ModelDeployment, observed: Observed, settings: Settings) -> Iterator[Child]:
    """Yield what guards the pods, where there is a platform: before them, because they need the account to exist."""
    if settings.platform_namespace is not None:
        yield service_account(resource)
        yield from disruption_budget(resource)
        yield from network_policies(
            resource,
            settings.platform_namespace,
            settings,
            announced=any(map(is_announcing_container, (*observed.children.values(), *observed.pods))),
        )


def _events(found: Findings) -> Iterator[Event]:
    """Yield the events that are no condition's: each compares what is with the status as it was."""
    spec, before = found.resource.spec, found.before
    if found.wanted.scaled:
        yield Event("Normal", v.SCALED, found.wanted.scaled)
    seen = before.get("specReplicas")
    if spec.scaling is not None and seen is not None and seen != spec.replicas:
        message = f"spec.replicas was changed from {seen} to {spec.replicas}, but spec.scaling is set"
        remedy = "Change spec.scaling, or remove it; spec.suspend: true forces zero"
        yield Event("Warning", v.SCALE_IGNORED, f"{message}. {remedy}")
    known = weights(before).keys()
    if found.revision not in known:
        yield Event("Normal", v.REVISION_CREATED, f"revision {found.revision}")
    for name in sorted(known - found.rollout.replicas.keys()):
        yield Event("Normal", v.REVISION_RETIRED, f"revision {name} gets no more requests")


def _waits_for_news(found: Findings) -> bool:
    """Whether time alone changes nothing: no pods are there or asked for, none are to go or to be tried again."""
    scaling = found.resource.spec.scaling
    lowest = scaling is None or found.wanted.replicas <= scaling.min_replicas
    none = not found.pods and not any(found.rollout.replicas.values())
    return none and lowest and found.startup.given_up is None


def _requeue(found: Findings, ready: Condition) -> float | None:
    demanded = any(demand.queued + demand.in_flight for demand in found.signals.demand.values())
    if found.wanted.off is not None:
        return None
    if not demanded and _waits_for_news(found):
        # A fetch recovers by going on for a while; gateways and the broker may have come back between two glances.
        heard = found.signals.connected and found.signals.gateways
        return None if heard and (found.source.cached or found.source.has_pod) else STEADY_REQUEUE_SECONDS
    lacks = found.routable(found.revision) < found.rollout.aim
    moving = lacks or (found.rollout.rolling and not found.stays_canary)
    if ready.status != "True" or moving or (demanded and found.wanted.scale is not None):
        return WORKING_REQUEUE_SECONDS
    if found.wanted.replicas == 0:
        return None
    if found.wanted.scale is None:
        return STEADY_REQUEUE_SECONDS
    if found.wanted.replicas > max(1, found.resource.spec.scaling.min_replicas if found.resource.spec.scaling else 0):
        return WORKING_REQUEUE_SECONDS  # the windows have to run empty
    return min(STEADY_REQUEUE_SECONDS, max(found.wanted.seconds_to_idle or STEADY_REQUEUE_SECONDS, 0.0))
