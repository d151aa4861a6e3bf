"""What the cluster refuses: a child, or a Deployment's pods; and whether room is all that these lack."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime

from headrace.api import vocabulary as v
from headrace.kinds.modeldeployment.deployments import deployments
from headrace.kinds.modeldeployment.pods import Failure
from headrace.reconcile.conditions import FAILED_CREATE
from headrace.reconcile.world import Manifest, Observed

PASSING_SECONDS = 10.0
"""For so long a refusal of pods may pass: a webhook is restarted, a quota's use is counted anew."""
_EXCEEDED_QUOTA = "exceeded quota"
"""What the API server says of a pod for which a namespace's quota has no room, among those it refuses."""
_AMOUNTS = re.compile(r"requested: (?P<requested>\S+), used: \S+, limited: (?P<limited>\S+)")
_AMOUNT = re.compile(r"(?P<number>[0-9.]+)(?P<suffix>[a-zA-Z]*)")
_SUFFIXES = {"": 1.0, "m": 0.001, "k": 1e3} | {
    f"{letter}{binary}": (1024.0 if binary else 1000.0) ** power
    for power, letter in enumerate("KMGTPE", start=1)
    for binary in ("", "i")
}


@dataclass(frozen=True, slots=True)
class Refusals:
    """What the cluster refuses of a resource."""

    child: Failure | None
    """A child, Deployments of other revisions left out."""
    other: Failure | None
    """A Deployment of another revision: it cannot be scaled or removed."""
    pods: Failure | None
    """Pods of the wanted revision: for want of room, or because they are not allowed."""
    accepts_revision: bool
    """Whether the cluster accepts the wanted revision's Deployment, or has it already."""

    @property
    def first(self) -> Failure | None:
        """What keeps the wanted revision from being carried out."""
        return self.child or self.pods

    @property
    def quota_full(self) -> bool:
        """Whether pods of the wanted revision are refused for want of room in the namespace's quota."""
        return self.pods is not None and self.pods.reason == v.UNSCHEDULABLE


def refusals_of(revision: str, deployment: str, observed: Observed, wall: float) -> Refusals:
    """Return what the cluster refuses.

    Args:
        revision: the wanted revision.
        deployment: the name of its Deployment.
        observed: what exists, and which children were refused.
        wall: Unix time: what is refused for a moment may be accepted in the next.
    """
    child = other = None
    for key, message in sorted(observed.refused.items()):
        failure = Failure(v.REFUSED, f"the cluster refuses the {key.kind} {key.name}: {message}")
        if key.kind == "Deployment" and key.name != deployment:
            other = other or failure
        else:
            child = child or failure
    present = deployments(observed).get(revision)
    refused = any(key.kind == "Deployment" and key.name == deployment for key in observed.refused)
    return Refusals(
        child=child,
        other=other,
        pods=refused_pods(present, wall) if present is not None else None,
        accepts_revision=not refused or present is not None,
    )


def refused_pods(workload: Manifest, wall: float) -> Failure | None:
    """Return why the cluster refuses the pods of a Deployment, or of a Job (whose world adds the condition)."""
    for condition in workload.get("status", {}).get("conditions") or []:
        if (condition["type"], condition["status"], condition["reason"]) != FAILED_CREATE:
            continue
        message = condition.get("message", "")
        text = f"the cluster refuses the pods: {message}"
        if _EXCEEDED_QUOTA in message:
            fits = _may_fit(message)
            return Failure(v.UNSCHEDULABLE if fits else v.REFUSED, text, waiting=fits)
        age = wall - datetime.fromisoformat(condition["lastTransitionTime"]).timestamp()
        return Failure(v.REFUSED, text, waiting=age < PASSING_SECONDS)
    return None


def _may_fit(message: str) -> bool:
    """Whether a pod asks for no more than the whole of the quota: then others that go make room for it."""
    found = _AMOUNTS.search(message)
    if found is None:
        return True
    requested, limited = (dict(_amounts(found[name])) for name in ("requested", "limited"))
    return all(amount <= limited.get(name, amount) for name, amount in requested.items())


def _amounts(text: str) -> list[tuple[str, float]]:
    """Return what `requests.cpu=300m,memory=2Gi` says; what cannot be read is left out."""
    result = []
    for part in text.split(","):
        name, _, amount = part.partition("=")
        found = _AMOUNT.fullmatch(amount)
        if found is not None and found["suffix"] in _SUFFIXES:
            result.append((name, float(found["number"]) * _SUFFIXES[found["suffix"]]))
    return result
