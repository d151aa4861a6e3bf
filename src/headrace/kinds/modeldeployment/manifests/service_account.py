"""The ServiceAccount of a model's pods: one that may do nothing, and whose token nobody mounts."""

from __future__ import annotations

from headrace.api.vocabulary import COMPONENT_RUNTIME
from headrace.kinds.modeldeployment.manifests.common import guarded_name, labels, metadata
from headrace.kinds.modeldeployment.resource import ModelDeployment
from headrace.reconcile.world import ApplyPhase, Child, ChildKey, Manifest


def service_account(resource: ModelDeployment) -> Child:
    """Return the account. The namespace's `default` may have been given rights by somebody; this one has none."""
    manifest: Manifest = {
        "apiVersion": "v1",
        "kind": "ServiceAccount",
        "metadata": metadata(resource, guarded_name(resource, COMPONENT_RUNTIME), labels(resource, COMPONENT_RUNTIME)),
        "automountServiceAccountToken": False,
    }
    return Child(ChildKey.of(manifest), manifest, ApplyPhase.PREREQUISITE)
