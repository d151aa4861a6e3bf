"""The route of a ModelDeployment: where gateways send requests, or that they hold them, or why they refuse them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime

from headrace.api import vocabulary as v
from headrace.events.subjects import ROUTES_BUCKET
from headrace.kinds.modeldeployment.decision import Decision
from headrace.kinds.modeldeployment.last_words import public
from headrace.kinds.modeldeployment.revision_info import RevisionInfo, observed_revisions, revision_info
from headrace.kinds.modeldeployment.rollout import only_fails
from headrace.kinds.modeldeployment.spec import ColdStart
from headrace.reconcile.conditions import clipped
from headrace.reconcile.world import Manifest, Publication
from headrace.routes import Engine, RevisionWeight, Route, Unavailable
from headrace.runtimes.profile import READINESS_PATH

FAILURE_RETRY_SECONDS = 10
"""Retry-After of an answer after a failure: the first back-off of a crashed or failed child."""


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
    """Return the weights with what each revision serves and is capable of."""
    return tuple(
        each.model_copy(
            update={
                "operations": revisions[each.revision].operations,
                "capabilities": revisions[each.revision].capabilities,
            }
        )
        for each in weights
    )


def engines(revisions: Mapping[str, RevisionInfo]) -> tuple[Engine, ...]:
    """Return what gateways must know of revisions that are not as gateways expect of one without an entry."""
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
    """Return the answer to requests while something fails: the condition's message without quotes from a log."""
    return Unavailable(reason=reason, message=clipped(public(message)), retry_after_seconds=FAILURE_RETRY_SECONDS)


def created(manifest: Manifest) -> int:
    """Return the Unix time of the resource's creation; 0 if it is unknown."""
    stamp = manifest["metadata"].get("creationTimestamp")
    return int(datetime.fromisoformat(stamp).timestamp()) if stamp else 0


def _public_name(decision: Decision, revisions: Mapping[str, RevisionInfo]) -> str:
    """Return the name that gateways serve: a changed one from when the pods that serve it take the requests."""
    if decision.taking_over and decision.rollout.serving in revisions:
        return revisions[decision.rollout.serving].public_name
    return decision.facts.resource.public_name


def _unavailable(decision: Decision) -> Unavailable | None:
    """Return why requests are refused; None: they are forwarded, or held because an answer can be expected."""
    facts = decision.facts
    if decision.wanted.off is not None:
        return decision.wanted.off
    if decision.taking_over and not only_fails(decision.rollout.serving, facts.pods):
        return None
    if facts.serving(facts.revision):
        return None
    if facts.source.failed:
        return refusal(facts.source.condition.reason, facts.source.condition.message)
    if decision.failure is not None and not decision.failure.waiting:
        return refusal(decision.failure.reason, decision.failure.message)
    return None


def _stage(decision: Decision) -> str:
    facts = decision.facts
    if facts.routable(decision.rollout.serving):
        return ""
    waits = decision.failure is not None and decision.failure.waiting and not decision.taking_over
    if waits or facts.source.condition.reason == v.UNSCHEDULABLE:
        return "unschedulable"
    if not decision.taking_over and not facts.source.cached:
        return "fetching"
    return "starting" if decision.wanted.replicas else ""
