"""Deployment of a revision."""

from __future__ import annotations

from headrace.api import vocabulary as v
from headrace.kinds.modeldeployment.keep import keeping
from headrace.kinds.modeldeployment.manifests.common import (
    deployment_name,
    labels,
    metadata,
    pod_basics,
    unchanged_child,
)
from headrace.kinds.modeldeployment.manifests.container import runtime_container
from headrace.kinds.modeldeployment.resource import ModelDeployment
from headrace.kinds.modeldeployment.revision_info import revision_annotations
from headrace.reconcile.world import ApplyPhase, Child, ChildKey, Manifest, Settings
from headrace.termination import quotes_log

CONTAINER = "runtime"
_LATER = frozenset({"terminationMessagePolicy"})


def deployment(
    resource: ModelDeployment,
    revision: str,
    replicas: int,
    settings: Settings,
    *,
    present: Manifest | None = None,
    quota_retry: int | None = None,
    affinity: Manifest | None = None,
) -> Child:
    """Return the Deployment of a revision with that number of replicas.

    An observed (`present`) Deployment keeps its template: only new revisions get fields that newer releases add.

    A changed `quota_retry` makes Kubernetes retry at once to create pods that exceeded a quota. Otherwise it retries
    after a growing back-off, even if the pods of another Deployment have been deleted in the meantime.

    `affinity` is of its pods, and not part of the revision's hash.
    """
    pod = pod_spec(resource, revision, settings)
    if present is not None and not quotes_log(present["spec"]["template"]["spec"]):
        pod = without_later_fields(pod)
    if affinity is not None:
        pod["affinity"] = affinity
    pod_labels = {
        **labels(resource, v.COMPONENT_RUNTIME),
        v.REVISION_LABEL: revision,
        **resource.spec.runtime.profile.pod_labels,
    }
    annotations = revision_annotations(resource)
    manifest: Manifest = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {
            **metadata(resource, deployment_name(resource, revision), pod_labels),
            "annotations": annotations | ({} if quota_retry is None else {v.QUOTA_RETRY_ANNOTATION: str(quota_retry)}),
        },
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": pod_labels},
            # A revision's template changes at most without replicas; headrace rolls out from one to the next.
            "strategy": {"type": "Recreate"},
            "template": {"metadata": {"labels": pod_labels}, "spec": pod},
        },
    }
    return Child(ChildKey.of(manifest), manifest, ApplyPhase.WORKLOAD)


def rescaled(observed: Manifest, replicas: int) -> Child:
    """Return the Deployment of another revision with a changed number of replicas and its template unchanged."""
    return unchanged_child({**observed, "spec": {**observed["spec"], "replicas": replicas}}, ApplyPhase.WORKLOAD)


def pod_spec(resource: ModelDeployment, revision: str, settings: Settings) -> Manifest:
    """Return the spec of a runtime pod."""
    spec, template = resource.spec, resource.spec.template
    rendered = runtime_container(resource, revision, settings)
    container: Manifest = {
        "name": CONTAINER,
        **rendered,
        "env": [*rendered["env"], *(variable.model_dump(exclude_defaults=True) for variable in template.env)],
        "resources": template.resources.model_dump(exclude_defaults=True) or rendered["resources"],
    }
    pod = pod_basics(resource, settings, container, writes=False)
    pod["readinessGates"] = [{"conditionType": v.ROUTABLE_GATE}]
    pod["terminationGracePeriodSeconds"] = spec.rollout.drain_timeout_seconds
    if template.node_selector:
        pod["nodeSelector"] = dict(template.node_selector)
    if template.tolerations:
        pod["tolerations"] = [t.model_dump(by_alias=True, exclude_none=True) for t in template.tolerations]
    return keeping(pod, spec, settings)


def without_later_fields(pod: Manifest) -> Manifest:
    """Return a pod's spec without the fields that were added later: they are not part of a revision's hash."""
    containers = [{name: value for name, value in each.items() if name not in _LATER} for each in pod["containers"]]
    return {**pod, "containers": containers}
