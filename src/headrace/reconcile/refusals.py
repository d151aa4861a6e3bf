"""What the cluster refuses: a child, or a Deployment's pods; and whether room is all that these lack."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import datetime

from headrace.api import vocabulary as v
from headrace.reconcile.deployments import deployments
from headrace.reconcile.pods import Failure
from headrace.reconcile.world import ChildKey, Manifest, Observed

PASSING_SECONDS = 10.0
"""For so long a refusal of pods may pass: a webhook is restarted, a quota's use is counted anew."""
FAILED_CREATE = ("ReplicaFailure", "True", "FailedCreate")
"""Type, status and reason of the condition by which a Deployment says that its pods are refused."""
_EXCEEDED_QUOTA = "exceeded quota"
"""What the API server says of a pod for which a namespace's quota has no room, among those it refuses."""
_AMOUNTS = re.compile(r"requested: (?P<requested>\S+), used: \S+, limited: (?P<limited>\S+)")
_AMOUNT = re.compile(r"(?P<number>[0-9.]+)(?P<suffix>[a-zA-Z]*)")
_SUFFIXES = {"": 1.0, "m": 0.001, "k": 1e3} | {
    f"{letter}{binary}": (1024.0 if binary else 1000.0) ** power
    for power, letter in enumerate("KMGTPE", start=1)
    for binary in ("", "i")
}


def refusal_of(revision: str, observed: Observed, wall: float) -> Failure | None:
    """Return why the cluster refuses a child, those of other revisions left out, or a revision's pods."""
    mine = (failure for key, failure in _refusals(observed) if not _is_of_another(revision, key))
    return next(mine, None) or refusal_of_pods(revision, observed, wall)


def refusal_of_others(revision: str, observed: Observed) -> Failure | None:
    """Return why the cluster refuses a Deployment of another revision than this."""
    return next((failure for key, failure in _refusals(observed) if _is_of_another(revision, key)), None)


def _refusals(observed: Observed) -> Iterator[tuple[ChildKey, Failure]]:
    for key, message in sorted(observed.refused.items()):
        yield key, Failure(v.REFUSED, f"the cluster refuses the {key.kind} {key.name}: {message}")


def _is_of_another(revision: str, key: ChildKey) -> bool:
    return key.kind == "Deployment" and not key.name.endswith(f"-{revision}")


def refusal_of_pods(revision: str, observed: Observed, wall: float) -> Failure | None:
    """Return why the cluster refuses a revision's pods: for want of room, or because it does not allow them.

    Args:
        revision: whose pods.
        observed: what exists.
        wall: Unix time: what is refused for a moment may be taken in the next.
    """
    deployment = deployments(observed).get(revision)
    return refused_pods(deployment, wall) if deployment is not None else None


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


def is_taken(revision: str, observed: Observed) -> bool:
    """Whether the cluster takes a revision's Deployment, or has it already."""
    refused = any(key.kind == "Deployment" and key.name.endswith(f"-{revision}") for key in observed.refused)
    return not refused or revision in deployments(observed)


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
