"""Children and pods that the cluster refuses, and whether missing capacity is the only cause."""

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
"""Time within which a refusal of pods may be transient: a webhook is restarting, a quota's usage is recalculated."""
_EXCEEDED_QUOTA = "exceeded quota"
"""Part of the API server's message about a pod that exceeds a quota of the namespace."""
_AMOUNTS = re.compile(r"requested: (?P<requested>\S+), used: \S+, limited: (?P<limited>\S+)")
_AMOUNT = re.compile(r"(?P<number>[0-9.]+)(?P<suffix>[a-zA-Z]*)")
_SUFFIXES = {"": 1.0, "m": 0.001, "k": 1e3} | {
    f"{letter}{binary}": (1024.0 if binary else 1000.0) ** power
    for power, letter in enumerate("KMGTPE", start=1)
    for binary in ("", "i")
}


@dataclass(frozen=True, slots=True)
class Refusals:
    """Refused children and pods of a resource."""

    child: Failure | None
    """A refused child, except Deployments of other revisions."""
    other: Failure | None
    """A refused Deployment of another revision, which cannot be scaled or deleted."""
    pods: Failure | None
    """Refused pods of the desired revision: they exceed a quota, or are not allowed."""
    accepts_revision: bool
    """Whether the cluster accepts the Deployment of the desired revision, or already has it."""

    @property
    def first(self) -> Failure | None:
        """The first refusal that affects the desired revision."""
        return self.child or self.pods

    @property
    def quota_full(self) -> bool:
        """Whether pods of the desired revision exceed a quota of the namespace."""
        return self.pods is not None and self.pods.reason == v.UNSCHEDULABLE


def refusals_of(revision: str, deployment: str, observed: Observed, wall: float) -> Refusals:
    """Return the refusals of the cluster.

    Args:
        revision: the desired revision.
        deployment: the name of its Deployment.
        observed: the existing and the refused children.
        wall: Unix time, to recognise transient refusals.
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
    """Return why the cluster refuses the pods of a Deployment or a Job (for a Job the world adds the condition)."""
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
    """Whether a pod requests at most the whole quota, so it fits once other pods are deleted."""
    found = _AMOUNTS.search(message)
    if found is None:
        return True
    requested, limited = (dict(_amounts(found[name])) for name in ("requested", "limited"))
    return all(amount <= limited.get(name, amount) for name, amount in requested.items())


def _amounts(text: str) -> list[tuple[str, float]]:
    """Return the amounts in a text such as `requests.cpu=300m,memory=2Gi`; unreadable amounts are dropped."""
    result = []
    for part in text.split(","):
        name, _, amount = part.partition("=")
        found = _AMOUNT.fullmatch(amount)
        if found is not None and found["suffix"] in _SUFFIXES:
            result.append((name, float(found["number"]) * _SUFFIXES[found["suffix"]]))
    return result
