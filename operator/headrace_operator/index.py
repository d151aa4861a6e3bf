"""Every object that concerns us, in memory: small, and always what the API server last said.

A body is kept as JSON without the fields that nothing here reads (managed fields, a pod's spec except its nodeName),
and decoded when it is read: as Python dictionaries, 8,000 objects are 80 MB, as JSON 12. Beside it is a digest of the
fields that an operator writes, which distinguishes a change by another client from a status update by the object's
controller.

News comes out of order: from watches, from the answers to our own writes, from lists, and of an object that was deleted
and made anew under its name from two queues. A resourceVersion is a number that grows over all of them, so the newer
one wins: also what is gone is gone as of one.
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
from headrace.reconcile.world import Manifest, ResourceKey

MAX_GONE = 10_000
"""Uids of deleted objects that are remembered: far more than are deleted in the time of one request."""
_OF_METADATA = frozenset(
    {
        *("name", "namespace", "uid", "resourceVersion", "generation", "creationTimestamp", "deletionTimestamp"),
        *("labels", "annotations", "ownerReferences"),
    }
)
_NOISE = "kubectl.kubernetes.io/last-applied-configuration"
"""An annotation as large as its object."""
_TEMPLATE_HASH_LABEL = "pod-template-hash"
_OWNING_PODS = frozenset({"DaemonSet", "Job"})
_NOT_OURS = frozenset({"status", "metadata", "apiVersion", "kind"})
_MADE_BY_OTHERS = frozenset({"Pod", "Secret"})
"""Like resources: nobody asks for a digest of them."""


@dataclass(frozen=True, slots=True, order=True)
class ObjectKey:
    """Names an object. Kinds are distinct without their groups; the namespace of a cluster-scoped object is empty."""

    kind: str
    namespace: str
    name: str

    @classmethod
    def of(cls, manifest: Manifest) -> ObjectKey:
        """Return the key of an object."""
        metadata = manifest["metadata"]
        return cls(manifest["kind"], metadata.get("namespace", ""), metadata["name"])


@dataclass(frozen=True, slots=True)
class Entry:
    """One object."""

    body: bytes
    uid: str
    version: int
    """resourceVersion. An API server's are numbers that grow (etcd's revisions), and since Kubernetes 1.35 must be."""
    digest: str
    """Of what an operator writes, see `digest_of`; empty for kinds that it does not write."""
    owner: ResourceKey | None
    """The resource that controls it, or a former one of that name; of a pod: the one that its label names."""

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
        """Uids of objects that are gone and since which resourceVersion, oldest first."""

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
        """Yield the objects whose entries name this owner: which are its own, their references say."""
        for key in sorted(self._owned.get(owner, ())):
            yield key, self._entries[key]

    def put(self, manifest: Manifest) -> None:
        """Take in an object as the API server gave it; older news than what is known is no news."""
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
        """Forget an object that is gone as of this resourceVersion: deleted, or without the label it is watched by.

        One of the same name that came after it stays. One that gets its label back has a newer version.
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
        """Return how many objects of a kind there are."""
        return len(self._kinds[kind])

    def _disown(self, key: ObjectKey, entry: Entry) -> None:
        if entry.owner is not None and (owned := self._owned.get(entry.owner)) is not None:
            owned.pop(key, None)
            if not owned:
                del self._owned[entry.owner]


def digest_of(manifest: Manifest) -> str:
    """Return a digest of what an operator writes of an object: all but status and what others add to metadata."""
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
    """Return a name for equal values."""
    return hashlib.sha256(_json(value)).hexdigest()[:16]


def without_claim(manifest: Manifest) -> Manifest:
    """Return an object without the owner annotation, if it is cluster-scoped and the operator never applied it.

    Any client may write the annotation on its own object, which the operator would then change and delete. Who applied
    an object is in its managed fields.
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
    if _NOISE in (metadata.get("annotations") or {}):
        annotations = {name: value for name, value in metadata["annotations"].items() if name != _NOISE}
        kept["metadata"]["annotations"] = annotations
    return Entry(
        body=_json(kept),
        uid=metadata["uid"],
        version=int(metadata["resourceVersion"]),
        digest="" if kind in RESOURCE_KINDS or kind in _MADE_BY_OTHERS else digest_of(kept),
        owner=resource_labelled(manifest, resource_labels()) if kind == "Pod" else resource_controlling(manifest),
    )


def _node_of(manifest: Manifest) -> str | None:
    """Return the node of a pod; None for a pod that is not scheduled, and for other objects."""
    node: str | None = manifest.get("spec", {}).get("nodeName") if manifest["kind"] == "Pod" else None
    return node


def _json(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()
