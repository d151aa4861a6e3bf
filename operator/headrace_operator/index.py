"""The watched objects in memory, in their newest known version.

A body is kept as JSON without unused fields (managed fields, a pod's spec except its nodeName), and decoded when it is
read: as Python dictionaries, 8,000 objects take 80 MB, as JSON 12. An entry also has a digest of the fields that an
operator writes, which distinguishes a change by another client from a status update by the object's controller.

Changes arrive out of order: from watches, from responses to own writes, from lists, and from two queues for an object
that was deleted and created again. resourceVersions increase over all of them, so the higher one wins; a deletion has a
resourceVersion too.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from headrace.api.vocabulary import FIELD_MANAGER, GROUP, OWNER_ANNOTATION
from headrace.kinds.registry import RESOURCE_KINDS, resource_labels
from headrace.reconcile.ownership import controller_of, is_cluster_scoped, resource_controlling, resource_labelled
from headrace.reconcile.world import Manifest, ObjectKey, ResourceKey

MAX_GONE = 10_000
"""Uids of deleted objects that are kept: far more than are deleted during one request."""
_OF_METADATA = frozenset(
    {
        *("name", "namespace", "uid", "resourceVersion", "generation", "creationTimestamp", "deletionTimestamp"),
        *("labels", "annotations", "ownerReferences"),
    }
)
_LAST_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"
"""A dropped annotation, as large as its object."""
_TEMPLATE_HASH_LABEL = "pod-template-hash"
_OWNING_PODS = frozenset({"DaemonSet", "Job"})
_NOT_OURS = frozenset({"status", "metadata", "apiVersion", "kind"})
_NOT_APPLIED = frozenset({"Pod", "Secret"})
"""Kinds that the operator does not apply, like resources: they need no digest."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One object."""

    body: bytes
    uid: str
    version: int
    """resourceVersion: an increasing number (etcd's revision; guaranteed since Kubernetes 1.35)."""
    digest: str
    """Digest of the fields that an operator writes, see `digest_of`; empty for kinds that it does not write."""
    owner: ResourceKey | None
    """The resource that controls it, or a former one of that name; of a pod: the resource in its label."""

    @property
    def manifest(self) -> Manifest:
        """The object."""
        decoded: Manifest = json.loads(self.body)
        return decoded


Changed = Callable[[ObjectKey, Entry | None, Entry | None], None]
"""Called with an object's key, its entry before (None: it is new), and its entry now (None: it is gone)."""


class Index:
    """See the module. Not for several threads."""

    def __init__(self, changed: Changed) -> None:
        self._changed = changed
        self._entries: dict[ObjectKey, Entry] = {}
        self._kinds: dict[str, dict[ObjectKey, None]] = defaultdict(dict)
        self._owned: dict[ResourceKey, dict[ObjectKey, None]] = {}
        self._gone: dict[str, float] = {}
        """Uids of deleted objects and the resourceVersion of their deletion, oldest first."""

    def entry(self, key: ObjectKey) -> Entry | None:
        """Return an object's entry."""
        return self._entries.get(key)

    def get(self, key: ObjectKey) -> Manifest | None:
        """Return an object."""
        entry = self._entries.get(key)
        return None if entry is None else entry.manifest

    def keys(self, kind: str) -> list[ObjectKey]:
        """Return the keys of a kind's objects."""
        return list(self._kinds[kind])

    def list(self, kind: str) -> list[Manifest]:
        """Return the objects of a kind."""
        return [self._entries[key].manifest for key in self._kinds[kind]]

    def owned(self, owner: ResourceKey) -> Iterator[tuple[ObjectKey, Entry]]:
        """Yield the objects with this owner in their entries; the caller checks their references."""
        for key in sorted(self._owned.get(owner, ())):
            yield key, self._entries[key]

    def put(self, manifest: Manifest) -> None:
        """Add or replace an object as received from the API server; an older version is ignored."""
        key, metadata = ObjectKey.of(manifest), manifest["metadata"]
        before = self._entries.get(key)
        known = max(-1 if before is None else before.version, self._gone.get(metadata["uid"], -1))
        if int(metadata["resourceVersion"]) <= known:
            return
        entry = _entry(manifest)
        self._entries[key] = entry
        self._kinds[key.kind][key] = None
        if before is not None and before.owner != entry.owner:
            self._disown(key, before)
        if entry.owner is not None:
            self._owned.setdefault(entry.owner, {})[key] = None
        self._changed(key, before, entry)

    def remove(self, key: ObjectKey, uid: str, version: float = math.inf) -> None:
        """Remove an object as of this resourceVersion: it was deleted, or lost the label of its watch.

        A newer object of the same name stays. One that gets its label again has a higher version.
        """
        self._gone[uid] = version
        if len(self._gone) > MAX_GONE:
            self._gone.pop(next(iter(self._gone)))
        entry = self._entries.get(key)
        if entry is None or entry.uid != uid or entry.version > version:
            return
        del self._entries[key]
        del self._kinds[key.kind][key]
        self._disown(key, entry)
        self._changed(key, entry, None)

    def size(self, kind: str) -> int:
        """Return the number of objects of a kind."""
        return len(self._kinds[kind])

    def _disown(self, key: ObjectKey, entry: Entry) -> None:
        if entry.owner is not None and (owned := self._owned.get(entry.owner)) is not None:
            owned.pop(key, None)
            if not owned:
                del self._owned[entry.owner]


def digest_of(manifest: Manifest) -> str:
    """Return a digest of the fields that an operator writes: all but status and metadata of other clients."""
    metadata = manifest["metadata"]
    annotations = metadata.get("annotations") or {}
    return digest(
        {
            "labels": metadata.get("labels") or {},
            "annotations": {name: value for name, value in annotations.items() if name.startswith(f"{GROUP}/")},
            "owners": sorted(reference["uid"] for reference in metadata.get("ownerReferences") or []),
            **{field: value for field, value in manifest.items() if field not in _NOT_OURS},
        }
    )


def digest(value: Any) -> str:
    """Return a short digest of a JSON value."""
    return hashlib.sha256(_json(value)).hexdigest()[:16]


def without_claim(manifest: Manifest) -> Manifest:
    """Return an object without the owner annotation, if it is cluster-scoped and the operator never applied it.

    Any client may write the annotation on its own object, which the operator would then change and delete. The managed
    fields name the clients that applied an object, as these named themselves.
    """
    metadata = manifest["metadata"]
    managers = {(each.get("manager"), each.get("operation")) for each in metadata.get("managedFields") or ()}
    if not is_cluster_scoped(manifest) or (FIELD_MANAGER, "Apply") in managers:
        return manifest
    annotations = metadata.get("annotations") or {}
    kept = {name: value for name, value in annotations.items() if name != OWNER_ANNOTATION}
    return {**manifest, "metadata": {**metadata, "annotations": kept}}


def workload_of(pod: Manifest) -> ObjectKey | None:
    """Return the key of the Deployment, DaemonSet or Job that a pod belongs to; None if it belongs to none.

    DaemonSets and Jobs own their pods directly. A Deployment owns them through a ReplicaSet, which is not watched: its
    name is the Deployment's and the hash that its pods have as a label.
    """
    metadata, reference = pod["metadata"], controller_of(pod)
    if reference is None:
        return None
    kind, name = reference["kind"], reference["name"]
    if kind in _OWNING_PODS:
        return ObjectKey(kind, metadata["namespace"], name)
    ending = f"-{metadata['labels'].get(_TEMPLATE_HASH_LABEL)}"
    if kind != "ReplicaSet" or not name.endswith(ending):
        return None
    return ObjectKey("Deployment", metadata["namespace"], name.removesuffix(ending))


def _entry(manifest: Manifest) -> Entry:
    manifest = without_claim(manifest)
    metadata, kind = manifest["metadata"], manifest["kind"]
    kept = {
        **{field: value for field, value in manifest.items() if not (field == "spec" and kind == "Pod")},
        **({"spec": {"nodeName": node}} if (node := _node_of(manifest)) is not None else {}),
        "metadata": {field: value for field, value in metadata.items() if field in _OF_METADATA},
    }
    if _LAST_APPLIED in (metadata.get("annotations") or {}):
        annotations = {name: value for name, value in metadata["annotations"].items() if name != _LAST_APPLIED}
        kept["metadata"]["annotations"] = annotations
    return Entry(
        body=_json(kept),
        uid=metadata["uid"],
        version=int(metadata["resourceVersion"]),
        digest="" if kind in RESOURCE_KINDS or kind in _NOT_APPLIED else digest_of(kept),
        owner=resource_labelled(manifest, resource_labels()) if kind == "Pod" else resource_controlling(manifest),
    )


def _node_of(manifest: Manifest) -> str | None:
    """Return the node of a pod; None for a pod that is not scheduled, and for other objects."""
    node: str | None = manifest.get("spec", {}).get("nodeName") if manifest["kind"] == "Pod" else None
    return node


def _json(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()
