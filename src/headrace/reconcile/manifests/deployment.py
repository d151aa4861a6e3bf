"""The Deployment of one revision: its runtime pods."""

from __future__ import annotations

from headrace import environment
from headrace.api.model_deployment import LLMRuntime
from headrace.api.validation import ModelDeployment
from headrace.api.vocabulary import COMPONENT_RUNTIME, PUBLIC_NAME_ANNOTATION, REVISION_LABEL, ROUTABLE_GATE
from headrace.reconcile.manifests.common import RESTRICTED, as_it_is, environment_of, labels, metadata, pod_basics
from headrace.reconcile.world import Child, ChildKey, Manifest, Settings
from headrace.sources.location import location

PORT = 8000
CONTAINER = "runtime"
LIVENESS_PERIOD_SECONDS = 10


def deployment(resource: ModelDeployment, revision: str, replicas: int, settings: Settings) -> Child:
    """Return the Deployment of a revision with so many replicas."""
    pod_labels = {**labels(resource, COMPONENT_RUNTIME), REVISION_LABEL: revision}
    manifest: Manifest = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {
            **metadata(resource, f"{resource.name}-{revision}", pod_labels),
            "annotations": {PUBLIC_NAME_ANNOTATION: resource.public_name},
        },
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": pod_labels},
            # A revision's template never changes; the rollout between revisions is ours.
            "strategy": {"type": "Recreate"},
            "template": {"metadata": {"labels": pod_labels}, "spec": pod_spec(resource, revision, settings)},
        },
    }
    return Child(ChildKey.of(manifest), manifest)


def rescaled(observed: Manifest, replicas: int) -> Child:
    """Return an old revision's Deployment with another number of replicas, its template as it was applied."""
    return as_it_is({**observed, "spec": {**observed["spec"], "replicas": replicas}})


def pod_spec(resource: ModelDeployment, revision: str, settings: Settings) -> Manifest:
    """Return the spec of a runtime pod."""
    spec, template = resource.spec, resource.spec.template
    llm = spec.runtime.llm or LLMRuntime()
    path = f"{settings.models_directory}/{location(spec.model.source.uri, spec.model.source.digest)}"
    grace = spec.rollout.drain_timeout_seconds
    container: Manifest = {
        "name": CONTAINER,
        "image": settings.runtime_image,
        "command": ["headrace-llm"],
        "args": [
            *("serve", path),
            *("--served-model-name", resource.public_name),
            *("--host", f"$({environment.POD_IP})"),
            *("--port", str(PORT)),
            *("--max-model-len", str(llm.max_model_len)),
            *("--max-concurrent-requests", str(llm.max_concurrent_requests)),
        ],
        "env": [
            *environment_of(resource, settings),
            {"name": environment.REVISION, "value": revision},
            {"name": environment.GRACE_SECONDS, "value": str(grace)},
            *(variable.model_dump() for variable in template.env),
        ],
        "ports": [{"name": "http", "containerPort": PORT}],
        "readinessProbe": {"httpGet": {"path": "/health/ready", "port": "http"}, "periodSeconds": 1},
        "livenessProbe": {
            "httpGet": {"path": "/health/live", "port": "http"},
            "periodSeconds": LIVENESS_PERIOD_SECONDS,
            "timeoutSeconds": 5,
            "initialDelaySeconds": LIVENESS_PERIOD_SECONDS,
        },
        "resources": template.resources.model_dump(exclude_defaults=True),
        "securityContext": RESTRICTED,
    }
    pod = pod_basics(settings, container, read_only_models=True)
    pod["readinessGates"] = [{"conditionType": ROUTABLE_GATE}]
    pod["terminationGracePeriodSeconds"] = grace
    if template.node_selector:
        pod["nodeSelector"] = dict(template.node_selector)
    if template.tolerations:
        pod["tolerations"] = [t.model_dump(by_alias=True, exclude_none=True) for t in template.tolerations]
    return pod
