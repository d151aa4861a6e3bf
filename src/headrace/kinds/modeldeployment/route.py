"""Route of a ModelDeployment: revisions and weights, or the cause for which gateways reject requests."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime

from headrace.api import vocabulary as v
from headrace.events.subjects import ROUTES_BUCKET
from headrace.kinds.modeldeployment.decision import Decision
from headrace.kinds.modeldeployment.exit_message import without_log
from headrace.kinds.modeldeployment.revision_info import RevisionInfo, observed_revisions, revision_info
from headrace.kinds.modeldeployment.rollout import all_pods_fail
from headrace.kinds.modeldeployment.spec import ColdStart
from headrace.reconcile.conditions import clipped
from headrace.reconcile.world import Manifest, Publication
from headrace.routes import Engine, RevisionWeight, Route, Unavailable
from headrace.runtimes.profile import READINESS_PATH

FAILURE_RETRY_SECONDS = 10
"""Retry-After of a response after a failure: the first back-off of a crashed or failed child."""


def route(decision: Decision) -> Route:
    """Return the route of an accepted resource."""
    facts = decision.facts
    resource = facts.resource
    revisions = {**observed_revisions(facts.observed, facts.manifest), facts.revision: revision_info(resource)}
    scaling = resource.spec.scaling
    cold_start = scaling.cold_start if scaling is not None else ColdStart()
    return Route(
        namespace=resource.namespace,
        name=resource.name,
        public_name=_public_name(decision, revisions),
        created=created(facts.manifest),
        revisions=described(decision.rollout.weights, revisions),
        engines=engines(revisions),
        unavailable=_unavailable(decision),
        stage=_stage(decision),
        max_queued_requests=cold_start.max_queued_requests,
        queue_timeout_seconds=cold_start.queue_timeout_seconds,
    )


def publication(manifest: Manifest, route: Route | None) -> Publication:
    """Return the entry of a ModelDeployment in the route table; None removes it."""
    metadata = manifest["metadata"]
    return Publication(ROUTES_BUCKET, f"{metadata.get('namespace', 'default')}.{metadata['name']}", route)


def described(weights: Iterable[RevisionWeight], revisions: Mapping[str, RevisionInfo]) -> tuple[RevisionWeight, ...]:
    """Return the weights with the operations and capabilities of each revision."""
    return tuple(
        each.model_copy(
            update={
                "operations": revisions[each.revision].operations,
                "capabilities": revisions[each.revision].capabilities,
                "adapters": revisions[each.revision].adapters,
            }
        )
        for each in weights
    )


def engines(revisions: Mapping[str, RevisionInfo]) -> tuple[Engine, ...]:
    """Return the entries of revisions that differ from the gateways' defaults."""
    return tuple(
        Engine(
            revision=name,
            readiness_path=info.readiness_path,
            model_name=info.model_name,
            announces=info.self_registers,
        )
        for name, info in revisions.items()
        if not info.self_registers or info.model_name is not None or info.readiness_path != READINESS_PATH
    )


def refusal(reason: str, message: str) -> Unavailable:
    """Return the rejection of requests after a failure: the condition's message without quotes from a log."""
    return Unavailable(reason=reason, message=clipped(without_log(message)), retry_after_seconds=FAILURE_RETRY_SECONDS)


def created(manifest: Manifest) -> int:
    """Return the Unix time of the resource's creation; 0 if it is unknown."""
    stamp = manifest["metadata"].get("creationTimestamp")
    return int(datetime.fromisoformat(stamp).timestamp()) if stamp else 0


def _public_name(decision: Decision, revisions: Mapping[str, RevisionInfo]) -> str:
    """Return the name that gateways serve. A changed name applies once its revision receives the requests."""
    if decision.stable_serves and decision.rollout.serving in revisions:
        return revisions[decision.rollout.serving].public_name
    return decision.facts.resource.public_name


def _unavailable(decision: Decision) -> Unavailable | None:
    """Return why requests are rejected; None: they are forwarded, or queued because a replica is expected."""
    facts = decision.facts
    if decision.desired.rejection is not None:
        return decision.desired.rejection
    if decision.stable_serves and not all_pods_fail(decision.rollout.serving, facts.pods):
        return None
    if facts.serving(facts.revision):
        return None
    if facts.files.failed:
        return refusal(facts.files.condition.reason, facts.files.condition.message)
    if decision.failure is not None and not decision.failure.waiting:
        return refusal(decision.failure.reason, decision.failure.message)
    return None


def _stage(decision: Decision) -> str:
    facts = decision.facts
    if facts.routable(decision.rollout.serving):
        return ""
    lacks_capacity = decision.failure is not None and decision.failure.waiting and not decision.stable_serves
    if lacks_capacity or facts.files.condition.reason == v.UNSCHEDULABLE:
        return "unschedulable"
    if not decision.stable_serves and not facts.files.cached:
        return "fetching"
    return "starting" if decision.desired.replicas else ""
