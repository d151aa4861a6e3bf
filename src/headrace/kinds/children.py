"""Children of a resource of any kind: name, labels and owner."""

from __future__ import annotations

from headrace.api.kinds import Kind
from headrace.api.vocabulary import MANAGED_BY
from headrace.kinds.resource_kind import ResourceKind
from headrace.reconcile.ownership import owner_annotation, owner_reference
from headrace.reconcile.world import Child, ChildKey, Manifest


def child_of(owner: ResourceKind, resource: Manifest, kind: Kind, content: Manifest, *parts: str) -> Child:
    """Return a child of a resource.

    Args:
        owner: the kind of the resource.
        resource: the resource.
        kind: the kind of the child.
        content: the fields of the child besides its metadata, such as `spec` or `data`.
        parts: tell the resource's children of one kind apart (`ResourceKind.child_name`).
    """
    name, namespace = resource["metadata"]["name"], resource["metadata"]["namespace"]
    labels = {MANAGED_BY: "headrace", owner.label: name}
    metadata: Manifest
    if kind.namespaced:
        references = [owner_reference(resource)]
        child = owner.child_name(name, *parts)
        metadata = {"name": child, "namespace": namespace, "labels": labels, "ownerReferences": references}
    else:
        child = owner.cluster_child_name(namespace, name, *parts)
        metadata = {"name": child, "labels": labels, "annotations": owner_annotation(resource)}
    manifest: Manifest = {"apiVersion": kind.api_version, "kind": kind.kind, "metadata": metadata, **content}
    return Child(ChildKey.of(manifest), manifest)
