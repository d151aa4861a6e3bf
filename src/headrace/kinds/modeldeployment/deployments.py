"""Observed Deployments of a resource, one for each revision."""

from __future__ import annotations

from headrace.api import vocabulary as v
from headrace.reconcile.world import Manifest, Observed


def deployments(observed: Observed) -> dict[str, Manifest]:
    """Return the Deployments by revision; that of standby pods has none."""
    return {
        manifest["metadata"]["labels"][v.REVISION_LABEL]: manifest
        for key, manifest in sorted(observed.children.items())
        if key.kind == "Deployment" and v.REVISION_LABEL in manifest["metadata"]["labels"]
    }


def existing_replicas(observed: Observed) -> int:
    """Return the desired replicas of the Deployments; during a rollout two revisions have the same number."""
    return max(map(replicas_of, deployments(observed).values()), default=0)


def replicas_of(deployment: Manifest) -> int:
    """Return the desired replicas of a Deployment."""
    return int(deployment["spec"].get("replicas", 0))


def weights(status: Manifest) -> dict[str, int]:
    """Return the route weights as last written, percent by revision."""
    return {item["name"]: int(item.get("weightPercent", 0)) for item in status.get("revisions", [])}
