"""Children of a resource of any kind: how they are named, labelled and owned."""

from __future__ import annotations

from headrace.api.kinds import Kind
from headrace.api.vocabulary import MANAGED_BY
from headrace.kinds.resource_kind import ResourceKind
from headrace.reconcile.ownership import owner_reference
from headrace.reconcile.world import Child, ChildKey, Manifest


def child_of(owner: ResourceKind, resource: Manifest, kind: Kind, content: Manifest, *parts: str) -> Child:
    """Return a namespaced child of a resource.

    Args:
        owner: the kind of the resource.
        resource: the resource.
        kind: the kind of the child.
        content: the fields of the child besides its metadata, such as `spec` or `data`.
        parts: tell the resource's children of one kind apart (`ResourceKind.child_name`).
    """
    metadata = resource["metadata"]
    manifest: Manifest = {
        "apiVersion": kind.api_version,
        "kind": kind.kind,
        "metadata": {
            "name": owner.child_name(metadata["name"], *parts),
            "namespace": metadata["namespace"],
            "labels": {MANAGED_BY: "headrace", owner.label: metadata["name"]},
            "ownerReferences": [owner_reference(resource)],
        },
        **content,
    }
    return Child(ChildKey.of(manifest), manifest)
