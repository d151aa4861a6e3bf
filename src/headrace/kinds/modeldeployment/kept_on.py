"""Nodes whose object store has the weights of a model: their next replicas prefer them, and the objects stay there.

A replica reports the name of the object that it maps. The record is in the status, so it outlasts the replicas and the
loop. It ends when the source changes, or when nothing is kept any more. A node that has lost the object meanwhile is
only preferred in vain, until a replica elsewhere is a newer record.
"""

from __future__ import annotations

from headrace.api import vocabulary as v
from headrace.kinds.modeldeployment.deployments import replicas_of
from headrace.kinds.modeldeployment.facts import Facts
from headrace.kinds.modeldeployment.keep import kept
from headrace.reconcile.world import Manifest

MAX_NODES = 16
"""The newest records. Each is a term of the affinity of all pods, which the scheduler evaluates for each node."""
_WEIGHT = 100
"""The highest: a start from other weights takes longer than one on a busier node."""


def kept_on(facts: Facts) -> list[Manifest]:
    """Return `status.keptOn`, the newest record last: `node`, and `object`, the object's name."""
    if kept(facts.resource.spec, facts.settings) == v.KEEP_NOTHING or not facts.settings.node_agent:
        return []
    before = facts.before
    recorded = facts.source.recorded or {}
    same = before.get("source", {}).get("path") == recorded.get("path")
    found = {each["node"]: each["object"] for each in before.get("keptOn", []) if same}
    for pod in facts.pods:
        if pod.revision == facts.revision and pod.report is not None and pod.report.kept_weights and pod.node:
            if found.get(pod.node) != pod.report.kept_weights:
                found.pop(pod.node, None)  # the record is a new one
            found[pod.node] = pod.report.kept_weights
    return [{"node": node, "object": name} for node, name in found.items()][-MAX_NODES:]


def affinity(facts: Facts) -> Manifest | None:
    """Return the affinity of the desired revision's pods; None without a record.

    A Deployment with replicas keeps its own: another template would replace them.
    """
    present = facts.deployments.get(facts.revision)
    if present is not None and replicas_of(present):
        observed: Manifest | None = present["spec"]["template"]["spec"].get("affinity")
        return observed
    nodes = [each["node"] for each in kept_on(facts)]
    if not nodes or facts.settings.platform_namespace is None:
        return None
    terms = [
        {
            "weight": _WEIGHT,
            "preference": {"matchFields": [{"key": "metadata.name", "operator": "In", "values": [node]}]},
        }
        for node in nodes
    ]
    return {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": terms}}
