"""Detection of missing capacity for the pods of a revision."""

from __future__ import annotations

from headrace.api import vocabulary as v
from headrace.kinds.modeldeployment.pods import Failure, RuntimePod

CAPACITY_WAIT_SECONDS = 10.0
"""Time without capacity until the stable revision is scaled down: an autoscaler may add a node in the meantime."""


def lacking_since(since: float | None, now: float, *, lacks: bool) -> float | None:
    """Return the monotonic time since which capacity has been missing without interruption."""
    if not lacks:
        return None
    return now if since is None else since


def lacks_capacity(
    revision: str, refused: Failure | None, pods: tuple[RuntimePod, ...], terminating: frozenset[str]
) -> bool:
    """Whether pods of the revision are unschedulable or exceed a quota, while no terminating pod will free capacity."""
    failures = [refused, *(pod.failure for pod in pods if pod.revision == revision)]
    return not terminating and any(failure is not None and failure.reason == v.UNSCHEDULABLE for failure in failures)
