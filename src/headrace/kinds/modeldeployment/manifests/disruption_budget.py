"""The PodDisruptionBudget: a drained node takes one replica of a model at a time."""

from __future__ import annotations

from collections.abc import Iterator

from headrace.api.vocabulary import COMPONENT_RUNTIME
from headrace.kinds.modeldeployment.manifests.common import guarded_name, labels, metadata
from headrace.kinds.modeldeployment.resource import ModelDeployment
from headrace.reconcile.world import Child, ChildKey, Manifest


def disruption_budget(resource: ModelDeployment) -> Iterator[Child]:
    """Yield the budget where there can be two replicas or more.

    Of a single one it would forbid nothing (a drain may take the only replica: the gateways hold its requests while the
    next one starts), and a budget without pods costs the cluster an event after another about just that.
    """
    scaling = resource.spec.scaling
    if (resource.spec.replicas if scaling is None else scaling.max_replicas) <= 1:
        return
    selector = labels(resource, COMPONENT_RUNTIME)
    manifest: Manifest = {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": metadata(resource, guarded_name(resource, COMPONENT_RUNTIME), selector),
        "spec": {"maxUnavailable": 1, "selector": {"matchLabels": selector}},
    }
    yield Child(ChildKey.of(manifest), manifest)
