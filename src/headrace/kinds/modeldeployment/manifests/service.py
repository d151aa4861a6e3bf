"""Service of a model's runtime pods, for discovery; gateways send requests to each pod directly.

It is headless: its DNS name resolves to the ready pods. A thousand models that are scaled to zero need neither a
thousand cluster IPs nor as many rules on every node.
"""

from __future__ import annotations

from headrace.api.vocabulary import COMPONENT_RUNTIME
from headrace.kinds.modeldeployment import MODEL_DEPLOYMENT
from headrace.kinds.modeldeployment.manifests.common import labels, metadata
from headrace.kinds.modeldeployment.resource import ModelDeployment
from headrace.reconcile.world import Child, ChildKey, Manifest


def service(resource: ModelDeployment) -> Child:
    """Return the Service."""
    selector = labels(resource, COMPONENT_RUNTIME)
    ports = resource.spec.runtime.profile.ports
    manifest: Manifest = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": metadata(resource, MODEL_DEPLOYMENT.child_name(resource.name), selector),
        "spec": {
            "clusterIP": "None",
            "selector": selector,
            "ports": [{"name": port.name, "port": port.number, "targetPort": port.name} for port in ports],
        },
    }
    return Child(ChildKey.of(manifest), manifest)
