"""Ownership of objects by resources.

The owner is that of the ownerReference with `controller: true`, identified by kind and uid, because any client can set
a label, and resources of different kinds may have the same name. A resource that is deleted and applied again is
another resource with another uid. A child of the former resource becomes a child of the new one only when the new one
desires a child of that name, which is then applied and so adopted.

A cluster-scoped object cannot have a namespaced owner, so Kubernetes neither records its owner nor deletes it with it.
An annotation names the owner instead (`owner_annotation`), and the reconcile loop deletes the child once it is not
desired. It is therefore a child of every resource of that kind, namespace and name, regardless of its uid: a pass
adopts or deletes the children of a former resource.

A pod is owned by its workload, and the workload by a resource. The workload may be deleted before its pods, so a pod
also names its resource in the label of that resource's kind; `labels` are these labels by kind.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

from headrace.api.vocabulary import GROUP, OWNER_ANNOTATION
from headrace.reconcile.world import Manifest, ResourceKey

_OWNER_FIELDS = ("kind", "namespace", "name", "uid")


@dataclass(frozen=True, slots=True)
class _Owner:
    """The owner that an annotation names."""

    key: ResourceKey
    uid: str


def owner_reference(resource: Manifest) -> Manifest:
    """Return the ownerReference of a resource's children in its namespace."""
    metadata = resource["metadata"]
    identity = {"name": metadata["name"], "uid": metadata["uid"]}
    return {"apiVersion": resource["apiVersion"], "kind": resource["kind"], **identity, "controller": True}


def owner_annotation(resource: Manifest) -> dict[str, str]:
    """Return the annotation of a resource's cluster-scoped children: JSON of its kind, namespace, name and uid."""
    metadata = resource["metadata"]
    values = (resource["kind"], metadata["namespace"], metadata["name"], metadata["uid"])
    return {OWNER_ANNOTATION: json.dumps(dict(zip(_OWNER_FIELDS, values, strict=True)))}


def is_cluster_scoped(manifest: Manifest) -> bool:
    """Whether an object is cluster-scoped: it has no namespace."""
    return not manifest["metadata"].get("namespace")


def controller_of(manifest: Manifest) -> Manifest | None:
    """Return the ownerReference to an object's controller; an API server allows one."""
    references = manifest["metadata"].get("ownerReferences") or []
    return next((reference for reference in references if reference.get("controller")), None)


def controls(owner: Manifest, manifest: Manifest) -> bool:
    """Whether an object controls another one."""
    if is_cluster_scoped(manifest):
        return _annotated_owner(manifest) == _Owner(ResourceKey.of(owner), owner["metadata"]["uid"])
    reference = controller_of(manifest)
    identity = owner["kind"], owner["metadata"]["uid"]
    return reference is not None and (reference["kind"], reference.get("uid")) == identity


def resource_controlling(manifest: Manifest) -> ResourceKey | None:
    """Return the resource that controls an object, or a former one of that name; None if no headrace resource does."""
    if is_cluster_scoped(manifest):
        owner = _annotated_owner(manifest)
        return None if owner is None else owner.key
    reference = controller_of(manifest)
    if reference is None or reference["apiVersion"].partition("/")[0] != GROUP:
        return None
    return ResourceKey(reference["kind"], manifest["metadata"]["namespace"], reference["name"])


def is_child(manifest: Manifest, key: ResourceKey, resource: Manifest | None) -> bool:
    """Whether an object is a child of a resource; None: the resource no longer exists, and its uid is unknown."""
    if resource_controlling(manifest) != key:
        return False
    return resource is None or is_cluster_scoped(manifest) or controls(resource, manifest)


def is_of_another(manifest: Manifest, key: ResourceKey) -> bool:
    """Whether an object has a controller that is neither the resource nor a former one of its kind and name."""
    controller = resource_controlling(manifest)
    return controller != key and (controller is not None or controller_of(manifest) is not None)


def resource_labelled(manifest: Manifest, labels: Mapping[str, str]) -> ResourceKey | None:
    """Return the resource that an object's labels name."""
    metadata = manifest["metadata"]
    given = metadata.get("labels") or {}
    named = ((kind, given[label]) for kind, label in labels.items() if label in given)
    return next((ResourceKey(kind, metadata["namespace"], name) for kind, name in named), None)


def is_pod_of(pod: Manifest, key: ResourceKey, workload: Manifest | None, labels: Mapping[str, str]) -> bool:
    """Whether a pod is a resource's: its label names it, and its workload (None: deleted) has no other owner."""
    return resource_labelled(pod, labels) == key and (workload is None or not is_of_another(workload, key))


def _annotated_owner(manifest: Manifest) -> _Owner | None:
    """Return the owner that a cluster-scoped object's annotation names; None without a readable annotation."""
    try:
        owner = json.loads((manifest["metadata"].get("annotations") or {}).get(OWNER_ANNOTATION, ""))
    except ValueError:
        return None
    if not isinstance(owner, dict) or not all(isinstance(owner.get(field), str) for field in _OWNER_FIELDS):
        return None
    return _Owner(ResourceKey(owner["kind"], owner["namespace"], owner["name"]), owner["uid"])
