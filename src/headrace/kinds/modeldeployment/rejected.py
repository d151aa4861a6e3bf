"""Outcome of a spec that is not accepted: running revisions are not changed, and the conditions have the cause.

The children and the route of earlier specs are kept. Without a running revision, requests are rejected with the cause.
"""

from __future__ import annotations

from typing import TypeVar

from headrace.api import vocabulary as v
from headrace.kinds.modeldeployment.deployments import deployments, weights
from headrace.kinds.modeldeployment.manifests.common import unchanged_child
from headrace.kinds.modeldeployment.peers import peers_of
from headrace.kinds.modeldeployment.pods import RuntimePod
from headrace.kinds.modeldeployment.revision_info import observed_revisions
from headrace.kinds.modeldeployment.rollout import WHOLE
from headrace.kinds.modeldeployment.route import created, described, engines, publication, refusal
from headrace.kinds.modeldeployment.shared_source import verified_condition
from headrace.kinds.modeldeployment.spec import Source
from headrace.reconcile.conditions import Condition, events, rendered
from headrace.reconcile.world import Manifest, Observed, Outcome, Signals
from headrace.routes import RevisionWeight, Route

M = TypeVar("M")

REQUEUE_SECONDS = 5.0
"""A taken name may become free, or a gateway may fail: neither enqueues this resource."""
_NAME_LENGTH = 63
"""Longer names are not in the route table; the condition has the error."""


def rejected(
    manifest: Manifest,
    accepted: Condition,
    observed: Observed,
    pods: tuple[RuntimePod, ...],
    signals: Signals,
    memory: M,
) -> Outcome[M]:
    """Return the outcome for a resource whose condition Accepted is False."""
    before = manifest.get("status", {})
    old, generation = before.get("conditions", []), manifest["metadata"].get("generation", 1)
    serving = _serving(observed, before)
    conditions = _conditions(accepted, serving, _verified(manifest, before))
    return Outcome(
        children=tuple(unchanged_child(child) for _, child in sorted(observed.children.items())),
        status={
            **before,
            "observedGeneration": generation,
            "replicas": len(pods),
            "readyReplicas": sum(pod.routable for pod in pods),
            "conditions": rendered(conditions, old, generation, signals.wall),
        },
        memory=memory,
        publications=(publication(manifest, _route(manifest, accepted, observed, serving)),),
        events=tuple(events(conditions, old)),
        routable_pods=frozenset(pod.name for pod in pods if pod.routable),
        requeue_seconds=REQUEUE_SECONDS if serving or accepted.reason == v.NAME_TAKEN else None,
    )


def _serving(observed: Observed, before: Manifest) -> str | None:
    """Return the revision that receives new requests; None without a running revision."""
    running = [name for name, manifest in deployments(observed).items() if manifest["spec"].get("replicas", 0)]
    return max(running, key=lambda name: weights(before).get(name, 0), default=None)


def _verified(manifest: Manifest, before: Manifest) -> Condition | None:
    """Return ModelCached if the file of the spec's source was verified before; no other field affects it."""
    try:
        source = Source.model_validate(_model(manifest).get("source"))
    except ValueError:
        return None
    return verified_condition(source, before)


def _conditions(accepted: Condition, serving: str | None, cached: Condition | None) -> list[Condition]:
    unknown = "not checked, because the spec is not accepted"
    if serving is not None:
        unknown = f"{unknown}; revision {serving} is not changed"
    known = {v.MODEL_CACHED: cached}
    return [
        Condition(v.READY, "False", accepted.reason, accepted.message),
        accepted,
        *(known.get(type_) or Condition(type_, "Unknown", v.PENDING, unknown) for type_ in v.CONDITIONS[2:]),
    ]


def _route(manifest: Manifest, accepted: Condition, observed: Observed, serving: str | None) -> Route | None:
    metadata, before = manifest["metadata"], manifest.get("status", {})
    revisions = observed_revisions(observed, manifest)
    unavailable = None
    if serving is not None:
        public_name = revisions[serving].public_name
    else:
        public_name = _requested_name(manifest) or metadata["name"]
        unavailable = refusal(accepted.reason, accepted.message)
    if public_name in peers_of(observed).names_taken or len(metadata["name"]) > _NAME_LENGTH:
        return None  # another model owns the name and its route
    return Route(
        namespace=metadata.get("namespace", "default"),
        name=metadata["name"],
        public_name=public_name,
        created=created(manifest),
        revisions=described(_shares(before, observed, serving), revisions),
        engines=engines(revisions),
        unavailable=unavailable,
    )


def _shares(before: Manifest, observed: Observed, serving: str | None) -> tuple[RevisionWeight, ...]:
    """Return the shares as last written, if every revision with a share still has a Deployment."""
    if serving is None:
        return ()
    shares = {name: share for name, share in weights(before).items() if share and name in deployments(observed)}
    if sum(shares.values()) != WHOLE:
        shares = {serving: WHOLE}
    return tuple(RevisionWeight(revision=name, weight_percent=share) for name, share in shares.items())


def _requested_name(manifest: Manifest) -> str | None:
    """Return the public name in an invalid spec; None if it has none."""
    name = _model(manifest).get("name")
    return name[:253] if isinstance(name, str) and name else None


def _model(manifest: Manifest) -> Manifest:
    """Return `spec.model` of an invalid spec; empty if it has none."""
    model = manifest["spec"].get("model") if isinstance(manifest.get("spec"), dict) else None
    return model if isinstance(model, dict) else {}
