"""Which pods of a ModelDeployment report, and of which containers the loop probes the readiness path."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import Any

from headrace.api import vocabulary as v
from headrace.kinds.controller import ProbedPod, Reporters
from headrace.kinds.modeldeployment.deployments import deployments, is_announcing_container
from headrace.kinds.modeldeployment.pods import component_of
from headrace.kinds.modeldeployment.spec import ContainerRuntime
from headrace.reconcile.world import Manifest, Observed

_CAPACITY = ContainerRuntime.model_fields["max_concurrent_requests"].default


def reporters(resource: Manifest, observed: Observed) -> Reporters:
    """Return who reports about a resource: its runtime pods, and its fetch while there is a Job."""
    runtimes = (pod for pod in observed.pods if component_of(pod) == v.COMPONENT_RUNTIME)
    return Reporters(
        pods=frozenset(pod["metadata"]["name"] for pod in runtimes),
        fetches=any(child.kind == "Job" for child in observed.children),
        probed=tuple(_probed(resource, observed)),
    )


def _probed(resource: Manifest, observed: Observed) -> Iterator[ProbedPod]:
    """Yield the running pods of custom containers."""
    engine = _engine(resource)
    brought = {revision: child for revision, child in deployments(observed).items() if _is_brought(child)}
    for pod in observed.pods:
        revision = pod["metadata"].get("labels", {}).get(v.REVISION_LABEL)
        status = pod.get("status", {})
        container: Manifest = next(iter(status.get("containerStatuses", [])), {})
        started = container.get("state", {}).get("running", {}).get("startedAt")
        if revision not in brought or not status.get("podIP") or not started:
            continue
        template = brought[revision]["spec"]["template"]["spec"]["containers"][0]
        yield ProbedPod(
            name=pod["metadata"]["name"],
            revision=revision,
            host=status["podIP"],
            port=template["ports"][0]["containerPort"],
            path=template["readinessProbe"]["httpGet"]["path"],
            capacity=int(engine.get("maxConcurrentRequests", _CAPACITY)),
            started=datetime.fromisoformat(started).timestamp(),
            ready=bool(container.get("ready")),
            leaving="deletionTimestamp" in pod["metadata"],
            announces=is_announcing_container(brought[revision]),
        )


def _is_brought(deployment: Manifest) -> bool:
    return v.ENGINE_MODEL_ANNOTATION in deployment["metadata"].get("annotations", {})


def _engine(resource: Manifest) -> dict[str, Any]:
    """Return what the spec says of the engine, as far as it is sound."""
    spec = resource.get("spec")
    runtime = spec.get("runtime") if isinstance(spec, dict) else None
    engine = runtime.get("container") if isinstance(runtime, dict) else None
    return engine if isinstance(engine, dict) else {}
