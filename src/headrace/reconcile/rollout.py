"""Which revision has how many replicas and what share of new requests.

A surge: the new revision grows to the wanted number while the old one keeps serving all requests. When every live
gateway routes to all of the new replicas the weight moves to them; when the gateways have had time to see that, the old
revision goes (its pods drain). A new revision that does not become ready leaves the old one serving for as long as it
takes. At zero, and where the old one only fails, the new one simply takes its place, but never before its model's file
is there: until then the old one is still what a request wakes. Where both fail, both stay: either may heal.
"""

from __future__ import annotations

from dataclasses import dataclass

from headrace.reconcile.pods import RuntimePod
from headrace.routes import RevisionWeight

WHOLE = 100
"""Percent."""
SETTLE_SECONDS = 1.0
"""Time in which every gateway has seen a moved weight; one that has not still finds the old pods draining, not gone."""


@dataclass(frozen=True, slots=True)
class Rollout:
    """What each revision should have."""

    target: str
    """The wanted revision."""
    replicas: dict[str, int]
    """By revision, the wanted one first; a revision not in it goes."""
    serving: str
    """The revision that new requests go to."""

    @property
    def weights(self) -> tuple[RevisionWeight, ...]:
        """What the route says."""
        return (RevisionWeight(revision=self.serving, weight_percent=WHOLE),)

    @property
    def rolling(self) -> bool:
        """Whether an old revision is still needed."""
        return len(self.replicas) > 1


def plan(
    target: str,
    wanted: int,
    *,
    olds: dict[str, int],
    pods: tuple[RuntimePod, ...],
    weights_before: dict[str, int],
    can_start: bool,
    fails: bool,
    settled: bool,
) -> Rollout:
    """Return the next step towards `wanted` replicas of revision `target`.

    Args:
        target: the wanted revision.
        wanted: how many replicas it should have in the end.
        olds: the other revisions that exist, and how many replicas each asks for now.
        pods: the runtime pods of all revisions.
        weights_before: the route weights as last written, percent by revision.
        can_start: whether the wanted revision may have pods now (its file is there).
        fails: whether the wanted revision is known not to start.
        settled: whether the gateways have had time to see that the weight moved to the wanted revision.
    """
    startable = wanted if can_start else 0
    # Not "serves": an old revision must not go because a pod of it was evicted, or a gateway admits its pods anew.
    needed = [old for old, replicas in olds.items() if replicas and (fails or not only_fails(old, pods))]
    if can_start and wanted == 0:
        needed = []
    if not can_start and not needed:
        needed = list(olds)
    if not needed:
        return Rollout(target, {target: startable}, target)
    # Of several old ones (a change during a rollout) the one that has the requests stays.
    old = max(needed, key=lambda revision: weights_before.get(revision, 0))
    ready = sum(pod.revision == target and pod.routable for pod in pods)
    took_over = weights_before.get(target) == WHOLE and ready > 0
    if not took_over and not 0 < wanted <= ready:
        return Rollout(target, {target: startable, old: wanted}, old)
    if took_over and settled:
        return Rollout(target, {target: startable}, target)
    return Rollout(target, {target: startable, old: wanted}, target)


def only_fails(revision: str, pods: tuple[RuntimePod, ...]) -> bool:
    """Whether a revision has pods, and none that serves or may come to."""
    failures = [pod.failure for pod in pods if pod.revision == revision]
    return bool(failures) and None not in failures
