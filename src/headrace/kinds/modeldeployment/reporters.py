"""Reporters of a ModelDeployment: its pods and its fetch, and the containers that the reconcile loop probes."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

from headrace.api import vocabulary as v
from headrace.kinds.controller import ProbedPod, Reporters
from headrace.kinds.modeldeployment.pods import component_of
from headrace.kinds.modeldeployment.revision_info import observed_revisions
from headrace.reconcile.world import Manifest, Observed


def reporters(resource: Manifest, observed: Observed) -> Reporters:
    """Return the senders of reports about a resource: its runtime pods, and its fetch Job if it exists."""
    runtimes = (pod for pod in observed.pods if component_of(pod) == v.COMPONENT_RUNTIME)
    return Reporters(
        pods=frozenset(pod["metadata"]["name"] for pod in runtimes),
        fetches=any(child.kind == "Job" for child in observed.children),
        probed=tuple(_probed(resource, observed)),
    )


def _probed(resource: Manifest, observed: Observed) -> Iterator[ProbedPod]:
    """Yield the running pods whose readiness path the loop requests."""
    revisions = observed_revisions(observed, resource)
    for pod in observed.pods:
        info = revisions.get(pod["metadata"].get("labels", {}).get(v.REVISION_LABEL))
        if info is None or (info.self_registers and not info.explains_unready):
            continue
        status = pod.get("status", {})
        container: Manifest = next(iter(status.get("containerStatuses", [])), {})
        started = container.get("state", {}).get("running", {}).get("startedAt")
        if not status.get("podIP") or not started:
            continue
        yield ProbedPod(
            name=pod["metadata"]["name"],
            revision=pod["metadata"]["labels"][v.REVISION_LABEL],
            host=status["podIP"],
            port=info.port,
            path=info.readiness_path,
            capacity=info.capacity,
            started=datetime.fromisoformat(started).timestamp(),
            ready=bool(container.get("ready")),
            terminating="deletionTimestamp" in pod["metadata"],
            announces=info.self_registers,
        )
