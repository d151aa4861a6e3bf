"""Conversion of a standby pod into a replica: it gets the labels of a replica that has not started.

The ReplicaSet of the pool releases it and starts another one. That of the revision adopts it, and deletes the starting
replica as the surplus: a pending pod goes before a running one.
"""

from __future__ import annotations

from collections.abc import Iterable

from headrace.api import vocabulary as v
from headrace.reconcile.world import Conversion, Manifest
from headrace_operator.client import CONFLICT, NOT_FOUND, ApiError, ApiServer
from headrace_operator.kinds import POD


def candidates(pods: Iterable[Manifest], conversion: Conversion) -> list[Manifest]:
    """Return the standby pods of a pool that can become the replica, those on its preferred nodes first."""
    nodes = frozenset(conversion.nodes)
    fitting = (pod for pod in pods if _waits(pod) and pod["metadata"]["labels"][v.STANDBY_LABEL] == conversion.program)
    return sorted(fitting, key=lambda pod: pod.get("spec", {}).get("nodeName") not in nodes)


async def convert(api: ApiServer, pod: Manifest, starting: Manifest) -> Manifest | None:
    """Give a standby pod the labels of a starting replica, and return it; None if it is gone. Raises ApiError."""
    metadata = pod["metadata"]
    patch = {"metadata": {"uid": metadata["uid"], "labels": starting["metadata"]["labels"]}}
    try:
        return await api.merge(POD.path(metadata["namespace"], metadata["name"]), patch)
    except ApiError as error:
        if error.status not in (NOT_FOUND, CONFLICT):  # it is gone, or another one has its name
            raise
        return None


def _waits(pod: Manifest) -> bool:
    metadata = pod["metadata"]
    is_standby = (
        metadata["labels"].get(v.COMPONENT_LABEL) == v.COMPONENT_STANDBY and v.STANDBY_LABEL in metadata["labels"]
    )
    return is_standby and "deletionTimestamp" not in metadata and pod.get("status", {}).get("phase") == "Running"
