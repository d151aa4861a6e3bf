"""Whether the wanted revision lacks room, for how long, and whether the old one gives way already."""

from __future__ import annotations

from headrace.api import vocabulary as v
from headrace.reconcile.pods import Failure, RuntimePod
from headrace.reconcile.world import Manifest

PATIENCE_SECONDS = 10.0
"""An autoscaler of nodes may make room, and other pods may end: before this nobody gives way."""


def lacking_since(since: float | None, now: float, *, lacks: bool) -> float | None:
    """Return since when there was no room without a break, on the monotonic clock."""
    if not lacks:
        return None
    return now if since is None else since


def lacks_room(revision: str, refused: Failure | None, pods: tuple[RuntimePod, ...], leaving: frozenset[str]) -> bool:
    """Whether pods of the revision find no node, or are refused for want of quota.

    While others are on their way out, they may find room in a moment.
    """
    failures = [refused, *(pod.failure for pod in pods if pod.revision == revision)]
    return not leaving and any(failure is not None and failure.reason == v.UNSCHEDULABLE for failure in failures)


def gives_way(before: Manifest) -> bool:
    """Whether the status says that the old revision gives way because there was no room for both."""
    progressing = (each for each in before.get("conditions", []) if each["type"] == v.PROGRESSING)
    return any((each["status"], each["reason"]) == ("True", v.NO_CAPACITY_FOR_SURGE) for each in progressing)
