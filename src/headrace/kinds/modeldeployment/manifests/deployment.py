"""The Deployment of one revision: its runtime pods."""

from __future__ import annotations

from headrace.api import vocabulary as v
from headrace.kinds.modeldeployment.last_words import quotes_log
from headrace.kinds.modeldeployment.manifests.brought import brought_container
from headrace.kinds.modeldeployment.manifests.common import as_it_is, deployment_name, labels, metadata, pod_basics
from headrace.kinds.modeldeployment.manifests.llm import PORT, llm_container
from headrace.kinds.modeldeployment.resource import ModelDeployment
from headrace.reconcile.world import ApplyPhase, Child, ChildKey, Manifest, Settings

CONTAINER = "runtime"
_LATER = frozenset({"terminationMessagePolicy"})


def deployment(
    resource: ModelDeployment,
    revision: str,
    replicas: int,
    settings: Settings,
    *,
    present: Manifest | None = None,
    nudge: int | None = None,
) -> Child:
    """Return the Deployment of a revision with so many replicas.

    One that is `present` keeps its template: fields that newer releases of headrace add are for new revisions.

    A `nudge` that changes lets Kubernetes try at once to make pods that a quota refused: by itself it waits each time
    for twice as long, and does not see that those of another Deployment have gone.
    """
    engine = resource.spec.runtime.container
    pod = pod_spec(resource, revision, settings)
    if present is not None and not quotes_log(present["spec"]["template"]["spec"]):
        pod = without_later_fields(pod)
    pod_labels = {**labels(resource, v.COMPONENT_RUNTIME), v.REVISION_LABEL: revision}
    if engine is not None and engine.announces:
        pod_labels[v.ANNOUNCES_LABEL] = "true"
    manifest: Manifest = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {
            **metadata(resource, deployment_name(resource, revision), pod_labels),
            "annotations": _annotations(resource) | ({} if nudge is None else {v.NUDGE_ANNOTATION: str(nudge)}),
        },
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": pod_labels},
            # A revision's template never changes; the rollout between revisions is ours.
            "strategy": {"type": "Recreate"},
            "template": {"metadata": {"labels": pod_labels}, "spec": pod},
        },
    }
    return Child(ChildKey.of(manifest), manifest, ApplyPhase.WORKLOAD)


def rescaled(observed: Manifest, replicas: int) -> Child:
    """Return an old revision's Deployment with another number of replicas, its template as it was applied."""
    return as_it_is({**observed, "spec": {**observed["spec"], "replicas": replicas}}, ApplyPhase.WORKLOAD)


def pod_spec(resource: ModelDeployment, revision: str, settings: Settings) -> Manifest:
    """Return the spec of a runtime pod."""
    spec, template = resource.spec, resource.spec.template
    made = _container(resource, revision, settings)
    container: Manifest = {
        "name": CONTAINER,
        **made,
        "env": [*made["env"], *(variable.model_dump(exclude_defaults=True) for variable in template.env)],
        "resources": template.resources.model_dump(exclude_defaults=True),
    }
    pod = pod_basics(resource, settings, container, writes=False)
    pod["readinessGates"] = [{"conditionType": v.ROUTABLE_GATE}]
    pod["terminationGracePeriodSeconds"] = spec.rollout.drain_timeout_seconds
    if template.node_selector:
        pod["nodeSelector"] = dict(template.node_selector)
    if template.tolerations:
        pod["tolerations"] = [t.model_dump(by_alias=True, exclude_none=True) for t in template.tolerations]
    return pod


def without_later_fields(pod: Manifest) -> Manifest:
    """Return a pod's spec as the first release made it: what came later is no part of what a revision is."""
    containers = [{name: value for name, value in each.items() if name not in _LATER} for each in pod["containers"]]
    return {**pod, "containers": containers}


def port_of(resource: ModelDeployment) -> int:
    """Return the port that the runtime listens on."""
    engine = resource.spec.runtime.container
    return engine.port if engine is not None else PORT


def _container(resource: ModelDeployment, revision: str, settings: Settings) -> Manifest:
    source, engine = resource.spec.model.source, resource.spec.runtime.container
    if engine is not None:
        return brought_container(resource, engine, revision, settings)
    assert source is not None  # a rule of the API
    return llm_container(resource, source, revision, settings)


def _annotations(resource: ModelDeployment) -> dict[str, str]:
    """Return what gateways have to know of the revision's pods, for as long as there are any."""
    annotations = {v.PUBLIC_NAME_ANNOTATION: resource.public_name}
    if (engine := resource.spec.runtime.container) is not None:
        annotations[v.ENGINE_MODEL_ANNOTATION] = engine.model_name or ""
    return annotations
