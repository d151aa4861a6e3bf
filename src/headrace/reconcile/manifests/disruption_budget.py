"""The PodDisruptionBudget: a drained node takes one replica of a model at a time."""

from __future__ import annotations

from headrace.api.validation import ModelDeployment
from headrace.api.vocabulary import COMPONENT_RUNTIME
from headrace.reconcile.manifests.common import guarded_name, labels, metadata
from headrace.reconcile.world import Child, ChildKey, Manifest


def disruption_budget(resource: ModelDeployment) -> Child:
    """Return the budget. It may take the only replica: the gateways hold requests while the next one starts."""
    selector = labels(resource, COMPONENT_RUNTIME)
    manifest: Manifest = {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": metadata(resource, guarded_name(resource, COMPONENT_RUNTIME), selector),
        "spec": {"maxUnavailable": 1, "selector": {"matchLabels": selector}},
    }
    return Child(ChildKey.of(manifest), manifest)
