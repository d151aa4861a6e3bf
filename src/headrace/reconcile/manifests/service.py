"""The Service of a model's runtime pods: for those who look for the pods; requests come by the gateways, to each pod.

It is headless. Whoever looks it up finds the pods that are ready, and a thousand models at rest take neither a thousand
addresses of the cluster's nor as many rules on every node.
"""

from __future__ import annotations

from headrace.api.validation import ModelDeployment
from headrace.api.vocabulary import COMPONENT_RUNTIME, MODEL_DEPLOYMENT
from headrace.reconcile.manifests.common import labels, metadata
from headrace.reconcile.manifests.deployment import port_of
from headrace.reconcile.names import child_name
from headrace.reconcile.world import Child, ChildKey, Manifest


def service(resource: ModelDeployment) -> Child:
    """Return the Service."""
    selector, port = labels(resource, COMPONENT_RUNTIME), port_of(resource)
    manifest: Manifest = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": metadata(resource, child_name(MODEL_DEPLOYMENT, resource.name), selector),
        "spec": {
            "clusterIP": "None",
            "selector": selector,
            "ports": [{"name": "http", "port": port, "targetPort": "http"}],
        },
    }
    return Child(ChildKey.of(manifest), manifest)
