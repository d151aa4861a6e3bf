"""Whose child an object is.

The ownerReference that says `controller: true` decides, by kind and uid. A label is anybody's to set, and resources of
different kinds may share a name. A resource that is deleted and applied again is another one (another uid): what the
former one left is no child of it until a child of that name is wanted, which is then applied and so adopted.

A pod is owned by its workload, and through that by a resource. A workload that is gone before its pods cannot be asked,
so a pod also names its resource in the label of that resource's kind. `labels` are these labels by kind.
"""

from __future__ import annotations

from collections.abc import Mapping

from headrace.api.vocabulary import GROUP
from headrace.reconcile.world import Manifest, ResourceKey


def controller_of(manifest: Manifest) -> Manifest | None:
    """Return the reference to what controls an object; an API server allows one."""
    references = manifest["metadata"].get("ownerReferences") or []
    return next((reference for reference in references if reference.get("controller")), None)


def controls(owner: Manifest, manifest: Manifest) -> bool:
    """Whether an object controls another one."""
    reference = controller_of(manifest)
    identity = owner["kind"], owner["metadata"]["uid"]
    return reference is not None and (reference["kind"], reference.get("uid")) == identity


def resource_controlling(manifest: Manifest) -> ResourceKey | None:
    """Return which resource controls an object, this one or a former one of that name; None: no resource of ours."""
    reference = controller_of(manifest)
    if reference is None or reference["apiVersion"].partition("/")[0] != GROUP:
        return None
    return ResourceKey(reference["kind"], manifest["metadata"]["namespace"], reference["name"])


def is_child(manifest: Manifest, key: ResourceKey, resource: Manifest | None) -> bool:
    """Whether an object is a resource's child. Of a resource that is gone (None) the uid is no more known."""
    return resource_controlling(manifest) == key and (resource is None or controls(resource, manifest))


def is_of_another(manifest: Manifest, key: ResourceKey) -> bool:
    """Whether an object has a controller that is neither the resource nor a former one of its kind and name."""
    return controller_of(manifest) is not None and resource_controlling(manifest) != key


def resource_labelled(manifest: Manifest, labels: Mapping[str, str]) -> ResourceKey | None:
    """Return the resource that an object's labels name."""
    metadata = manifest["metadata"]
    given = metadata.get("labels") or {}
    named = ((kind, given[label]) for kind, label in labels.items() if label in given)
    return next((ResourceKey(kind, metadata["namespace"], name) for kind, name in named), None)


def is_pod_of(pod: Manifest, key: ResourceKey, workload: Manifest | None, labels: Mapping[str, str]) -> bool:
    """Whether a pod is a resource's: its label names the resource, and its workload (None: gone) has no other owner."""
    return resource_labelled(pod, labels) == key and (workload is None or not is_of_another(workload, key))
