"""Which revision has how many replicas and what share of new requests.

A surge: the new revision grows to the wanted number while the old one keeps serving all requests. When every live
gateway routes to all of the new replicas the weight moves to them, and at the next look, when the gateways have seen
that, the old revision goes (its pods drain). A new revision that never becomes ready leaves the old one serving. At
zero, and where the old one has nothing that serves, the new one simply takes its place.
"""

from __future__ import annotations

from dataclasses import dataclass

from headrace.reconcile.pods import RuntimePod
from headrace.routes import RevisionWeight

WHOLE = 100
"""Percent."""


@dataclass(frozen=True, slots=True)
class OldRevision:
    """A revision that exists and is not the wanted one."""

    name: str
    replicas: int


@dataclass(frozen=True, slots=True)
class Rollout:
    """What each revision should have."""

    replicas: dict[str, int]
    """By revision, the wanted one first; a revision not in it goes."""
    weights: tuple[RevisionWeight, ...]
    rolling: bool


def plan(
    target: str,
    wanted: int,
    *,
    olds: tuple[OldRevision, ...],
    pods: tuple[RuntimePod, ...],
    weights_before: dict[str, int],
    can_start: bool,
) -> Rollout:
    """Return the next step towards `wanted` replicas of revision `target`.

    Args:
        target: the wanted revision.
        wanted: how many replicas it should have in the end.
        olds: the other revisions that exist.
        pods: the runtime pods of all revisions.
        weights_before: the route weights as last written, percent by revision.
        can_start: whether the wanted revision may have pods now (its file is there).
    """
    startable = wanted if can_start else 0
    serving = [old for old in olds if any(pod.revision == old.name and pod.routable for pod in pods)]
    if not serving or wanted == 0:
        return Rollout({target: startable}, _all_to(target), rolling=False)
    # Of several old ones (a change during a rollout) the one that has the requests stays.
    old = max(serving, key=lambda revision: weights_before.get(revision.name, 0))
    replicas = {target: startable, old.name: max(old.replicas, 1)}
    ready = sum(pod.revision == target and pod.routable for pod in pods)
    if ready < wanted:
        return Rollout(replicas, _all_to(old.name), rolling=True)
    if weights_before.get(target) != WHOLE:
        return Rollout(replicas, _all_to(target), rolling=True)
    return Rollout({target: startable}, _all_to(target), rolling=False)


def _all_to(revision: str) -> tuple[RevisionWeight, ...]:
    return (RevisionWeight(revision=revision, weight_percent=WHOLE),)
