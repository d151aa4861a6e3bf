"""PodDisruptionBudget: a node drain evicts one replica of a model at a time."""

from __future__ import annotations

from collections.abc import Iterator

from headrace.api.vocabulary import COMPONENT_RUNTIME
from headrace.kinds.modeldeployment.manifests.common import component_name, labels, metadata
from headrace.kinds.modeldeployment.resource import ModelDeployment
from headrace.reconcile.world import Child, ChildKey, Manifest


def disruption_budget(resource: ModelDeployment) -> Iterator[Child]:
    """Yield the budget if the model can have two or more replicas.

    For a single replica it would have no effect: a drain may evict it, and the gateways queue its requests while the
    next one starts. And a budget without pods causes repeated events in the cluster.
    """
    scaling = resource.spec.scaling
    if (resource.spec.replicas if scaling is None else scaling.max_replicas) <= 1:
        return
    selector = labels(resource, COMPONENT_RUNTIME)
    manifest: Manifest = {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": metadata(resource, component_name(resource, COMPONENT_RUNTIME), selector),
        "spec": {"maxUnavailable": 1, "selector": {"matchLabels": selector}},
    }
    yield Child(ChildKey.of(manifest), manifest)
