"""The Service in front of a model's runtime pods: for people and other routers; our gateways speak to the pods."""

from __future__ import annotations

from headrace.api.validation import ModelDeployment
from headrace.api.vocabulary import COMPONENT_RUNTIME
from headrace.reconcile.manifests.common import labels, metadata
from headrace.reconcile.world import Child, ChildKey, Manifest


def service(resource: ModelDeployment) -> Child:
    """Return the Service."""
    selector = labels(resource, COMPONENT_RUNTIME)
    manifest: Manifest = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": metadata(resource, resource.name, selector),
        "spec": {"selector": selector, "ports": [{"name": "http", "port": 80, "targetPort": "http"}]},
    }
    return Child(ChildKey.of(manifest), manifest)
