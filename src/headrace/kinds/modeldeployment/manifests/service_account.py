"""ServiceAccount of a model's pods, without rights and without a mounted token."""

from __future__ import annotations

from headrace.api.vocabulary import COMPONENT_RUNTIME
from headrace.kinds.modeldeployment.manifests.common import component_name, labels, metadata
from headrace.kinds.modeldeployment.resource import ModelDeployment
from headrace.reconcile.world import ApplyPhase, Child, ChildKey, Manifest


def service_account(resource: ModelDeployment) -> Child:
    """Return the account. The namespace's account `default` may have rights, so it is not used."""
    manifest: Manifest = {
        "apiVersion": "v1",
        "kind": "ServiceAccount",
        "metadata": metadata(
            resource, component_name(resource, COMPONENT_RUNTIME), labels(resource, COMPONENT_RUNTIME)
        ),
        "automountServiceAccountToken": False,
    }
    return Child(ChildKey.of(manifest), manifest, ApplyPhase.PREREQUISITE)
