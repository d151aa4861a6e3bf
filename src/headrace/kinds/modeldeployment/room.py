"""Whether the wanted revision lacks room, and for how long."""

from __future__ import annotations

from headrace.api import vocabulary as v
from headrace.kinds.modeldeployment.pods import Failure, RuntimePod

PATIENCE_SECONDS = 10.0
"""An autoscaler of nodes may make room, and other pods may end: before this the stable revision is not scaled down."""


def lacking_since(since: float | None, now: float, *, lacks: bool) -> float | None:
    """Return since when there was no room without a break, on the monotonic clock."""
    if not lacks:
        return None
    return now if since is None else since


def lacks_room(
    revision: str, refused: Failure | None, pods: tuple[RuntimePod, ...], terminating: frozenset[str]
) -> bool:
    """Whether pods of the revision find no node, or are refused for want of quota.

    While others are on their way out, they may find room in a moment.
    """
    failures = [refused, *(pod.failure for pod in pods if pod.revision == revision)]
    return not terminating and any(failure is not None and failure.reason == v.UNSCHEDULABLE for failure in failures)
